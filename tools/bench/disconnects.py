"""Disconnects: clients hang up at every moment; the backend is let go at once, and every slot comes back."""

import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import trio

from tools.bench.a1111_disconnects import measure_a1111
from tools.bench.clients import GOODBYES, Goodbye, open_asker
from tools.bench.comfyui_disconnects import measure_comfyui
from tools.bench.common import Figure, at_most, exactly, parse_arguments, percentile, report, settled_fds, told
from tools.bench.gateway_process import GatewayProcess, open_gateway
from tools.bench.invokeai_disconnects import measure_invokeai
from tools.bench.slow_upstream import SlowUpstream, open_slow_upstream

Moment = Literal["in the head", "in the body", "while it draws", "in its answer"]
# Two of five leave before there is anything to abort: they must leave no trace at the backend.
MOMENTS: tuple[Moment, ...] = ("in the head", "while it draws", "in its answer", "in the body", "while it draws")

DISCONNECTS = 200
AT_ONCE = 2  # both slots
ABORT_TIMEOUT_S = 5.0
MISSES_ENOUGH = 5  # what is that broken need not be measured for a quarter of an hour
GOAL_P99_MS = 50.0
TITLE = f"disconnects: {DISCONNECTS} hang-ups at an OpenAI-style server, an A1111, a ComfyUI and an InvokeAI"


@dataclass(slots=True)
class Tally:
    """What happened. aborts_ms: from the client's close to the backend's seeing its own connection closed."""

    aborts_ms: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    missed: int = 0
    slots_late: int = 0
    drawing: int = 0  # those that stayed until the backend drew
    done: int = 0


def main(argv: Sequence[str]) -> int:
    """Measure and print. Exit 1 if a promise was broken."""
    arguments = parse_arguments(argv, TITLE)
    servers = (measure_openai, measure_a1111, measure_comfyui, measure_invokeai)
    figures = [figure for measure in servers for figure in trio.run(measure)]
    return report(TITLE, figures, arguments.json)


async def measure_openai() -> list[Figure]:
    """Hang up 200 times, two at a time, then look at slots, descriptors and the backend."""
    tally = Tally()
    async with open_slow_upstream() as upstream:
        environment = {"IMAGES_BACKEND": "http_openai_images", "IMAGES_HTTP_BASE_URL": upstream.base_url}
        async with open_gateway(environment) as gateway:
            await _run(gateway, upstream, Tally(), 20)  # warm-up
            limit, fds = (await gateway.slots()).limit, len(await settled_fds(gateway.pid))
            asked_before = len(upstream.seen)
            await _run(gateway, upstream, tally, DISCONNECTS)
            slots = await gateway.slots()
            fds_kept = len(await settled_fds(gateway.pid, fds)) - fds
            asked = len(upstream.seen) - asked_before
    return _figures(tally, slots.available, limit, fds_kept, asked)


def _figures(tally: Tally, available: int, limit: int, fds_kept: int, asked: int) -> list[Figure]:
    aborts_ms = [one for many in tally.aborts_ms.values() for one in many]
    by_kind = [told(f"abort seen, {kind}: p99", percentile(many, 99), "ms") for kind, many in tally.aborts_ms.items()]
    return [
        exactly("hang-ups", tally.done, "", DISCONNECTS),
        told("abort seen by the backend: p50", percentile(aborts_ms, 50), "ms"),
        at_most("abort seen by the backend: p99", percentile(aborts_ms, 99), "ms", GOAL_P99_MS),
        told("abort seen by the backend: max", max(aborts_ms, default=float("nan")), "ms"),
        *by_kind,
        exactly("aborts missed", tally.missed, "", 0),
        exactly("pictures asked for by those who left too early", asked - tally.drawing, "", 0),
        exactly("rounds after which a slot was late", tally.slots_late, "", 0),
        exactly("slots free at the end", available, "", limit),
        exactly("descriptors more than before", fds_kept, "", 0),
    ]


async def _run(gateway: GatewayProcess, upstream: SlowUpstream, tally: Tally, count: int) -> None:
    """Rounds of two hang-ups; the moments go round in fives and the goodbyes in twos, so that all pairs occur."""
    for first in range(0, count, AT_ONCE):
        if tally.missed + tally.slots_late >= MISSES_ENOUGH:
            return
        async with trio.open_nursery() as nursery:
            for number in range(first, min(first + AT_ONCE, count)):
                moment = MOMENTS[number % len(MOMENTS)]
                goodbye = GOODBYES[(number // len(MOMENTS)) % len(GOODBYES)]
                nursery.start_soon(_hang_up, gateway, upstream, tally, moment, goodbye)
        if not await gateway.wait_for_inflight(0, ABORT_TIMEOUT_S):
            tally.slots_late += 1


async def _hang_up(
    gateway: GatewayProcess, upstream: SlowUpstream, tally: Tally, moment: Moment, goodbye: Goodbye
) -> None:
    prompt = f"{'half' if moment == 'in its answer' else 'hold'} {id(tally)} {tally.done}"  # the warm-up's are others
    tally.done += 1
    asker = await open_asker(gateway, prompt)
    if moment in {"in the head", "in the body"}:
        await asker.send(0.5 * asker.head_share if moment == "in the head" else (1 + asker.head_share) / 2)
        await trio.sleep(0.01)  # so that the gateway has begun to read
        asker.hang_up(goodbye)
        return
    await asker.send()
    tally.drawing += 1
    seen = upstream.seen[prompt]
    if not await _in_time(seen.arrived):
        asker.hang_up(goodbye)
        tally.missed += 1  # no slot was free for it: an earlier one has not come back
        return
    await trio.sleep(0.01)  # so that half an answer has been read
    left_s = asker.hang_up(goodbye)
    if not await _in_time(seen.left):
        tally.missed += 1
        return
    tally.aborts_ms[f"{moment}, {goodbye}"].append((seen.left_s - left_s) * 1000)


async def _in_time(event: trio.Event) -> bool:
    with trio.move_on_after(ABORT_TIMEOUT_S):
        await event.wait()
        return True
    return False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
