"""Disconnects of chats: clients leave in silence and in mid-stream, under streams of others; every slot comes back."""

import json
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import trio

from tools.bench.clients import GOODBYES, Asker, Goodbye
from tools.bench.common import (
    Figure,
    at_most,
    exactly,
    make_request,
    parse_arguments,
    percentile,
    report,
    settled_fds,
    told,
)
from tools.bench.gateway_process import GatewayProcess, open_gateway
from tools.bench.talking_upstream import CHUNK_INTERVAL_S, TALKED, TalkingUpstream, open_talking_upstream

Moment = Literal["before the first byte, streamed", "before the first byte, whole", "in mid-stream"]
MOMENTS: tuple[Moment, ...] = (
    "in mid-stream",
    "before the first byte, streamed",
    "in mid-stream",
    "before the first byte, whole",
)

DISCONNECTS = 400  # half of them in mid-stream
AT_ONCE = 4
OTHERS = 50
OTHERS_CHUNKS = 200  # ten seconds; a stream that ends is followed by another
SLOTS = "bench.chat"
LIMIT = OTHERS + AT_ONCE
ABORT_TIMEOUT_S = 5.0
MISSES_ENOUGH = 5  # what is that broken need not be measured for a quarter of an hour
GOAL_P99_MS = 50.0
TITLE = f"language_disconnects: {DISCONNECTS} hang-ups of chats, under {OTHERS} streams of others"


@dataclass(slots=True)
class Tally:
    """What happened. aborts_ms: from the client's close to the backend's seeing its own connection closed."""

    aborts_ms: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    missed: int = 0
    slots_late: int = 0
    done: int = 0
    others_whole: int = 0
    others_hurt: int = 0


def main(argv: Sequence[str]) -> int:
    """Measure and print. Exit 1 if a promise was broken."""
    arguments = parse_arguments(argv, TITLE)
    return report(TITLE, trio.run(measure), arguments.json)


async def measure() -> list[Figure]:
    """Hang up 400 times, four at a time, while fifty others listen; then look at slots and descriptors."""
    tally = Tally()
    with tempfile.TemporaryDirectory(prefix="bench-config-") as folder:
        async with open_talking_upstream() as upstream:
            config = _write_config(Path(folder), upstream)
            async with open_gateway({"BACKENDS_CONFIG_PATH": str(config)}) as gateway:
                await _hang_up_often(gateway, upstream, Tally(), 20, others=0)  # warm-up
                fds = len(await settled_fds(gateway.pid))
                async with trio.open_nursery() as others:
                    stop = trio.Event()
                    for number in range(OTHERS):
                        others.start_soon(_listen, gateway, tally, number, stop)
                    await gateway.wait_for_inflight(OTHERS, 10, SLOTS)
                    await _hang_up_often(gateway, upstream, tally, DISCONNECTS, others=OTHERS)
                    stop.set()
                await gateway.wait_for_inflight(0, ABORT_TIMEOUT_S, SLOTS)
                available = (await gateway.slots(SLOTS)).available
                fds_kept = len(await settled_fds(gateway.pid, fds)) - fds
    return _figures(tally, available, fds_kept)


def _write_config(folder: Path, upstream: TalkingUpstream) -> Path:
    config = folder / "backends.yaml"
    one = {
        "provider": "openai",
        "base_url": upstream.base_url,
        "supported_capabilities": ["chat"],
        "concurrency_limits": {"chat": LIMIT},
    }
    config.write_text(json.dumps({"backends": {"bench": one}}))  # JSON is YAML
    return config


def _figures(tally: Tally, available: int, fds_kept: int) -> list[Figure]:
    aborts_ms = [one for many in tally.aborts_ms.values() for one in many]
    by_kind = [told(f"{kind}: p99", percentile(many, 99), "ms") for kind, many in sorted(tally.aborts_ms.items())]
    return [
        exactly("hang-ups", tally.done, "", DISCONNECTS),
        told("abort seen by the backend: p50", percentile(aborts_ms, 50), "ms"),
        at_most("abort seen by the backend: p99", percentile(aborts_ms, 99), "ms", GOAL_P99_MS),
        told("abort seen by the backend: max", max(aborts_ms, default=float("nan")), "ms"),
        *by_kind,
        exactly("aborts missed", tally.missed, "", 0),
        exactly("rounds after which a slot was late", tally.slots_late, "", 0),
        exactly("slots free at the end", available, "", LIMIT),
        exactly("descriptors more than before", fds_kept, "", 0),
        told("streams of others that were whole", tally.others_whole, ""),
        exactly("streams of others that were not", tally.others_hurt, "", 0),
    ]


async def _hang_up_often(
    gateway: GatewayProcess, upstream: TalkingUpstream, tally: Tally, count: int, *, others: int
) -> None:
    """Rounds of four; moments go round in fours and goodbyes in twos of rounds, so that all pairs occur."""
    for first in range(0, count, AT_ONCE):
        if tally.missed + tally.slots_late >= MISSES_ENOUGH:
            return
        async with trio.open_nursery() as nursery:
            for number in range(first, min(first + AT_ONCE, count)):
                goodbye = GOODBYES[(number // AT_ONCE) % len(GOODBYES)]
                nursery.start_soon(_hang_up, gateway, upstream, tally, MOMENTS[number % len(MOMENTS)], goodbye)
        if not await _slots_back(gateway, others):
            tally.slots_late += 1


async def _slots_back(gateway: GatewayProcess, others: int) -> bool:
    """Whether ours are back: of the others' slots one may just be between two streams."""
    with trio.move_on_after(ABORT_TIMEOUT_S):
        while (await gateway.slots(SLOTS)).inflight > others:  # noqa: ASYNC110 - another process: nothing tells us
            await trio.sleep(0.002)
        return True
    return False


async def _hang_up(
    gateway: GatewayProcess, upstream: TalkingUpstream, tally: Tally, moment: Moment, goodbye: Goodbye
) -> None:
    prompt = f"{'talk' if moment == 'in mid-stream' else 'hold'} {id(tally)} {tally.done}"  # the warm-up's are others
    tally.done += 1
    stream = await trio.open_tcp_stream("127.0.0.1", gateway.port)
    asker = Asker(stream, _request(gateway, prompt, stream=not moment.endswith("whole")))
    await asker.send()
    seen = upstream.seen[prompt]
    if not await _in_time(seen.arrived):
        asker.hang_up(goodbye)
        tally.missed += 1  # no slot was free for it: an earlier one has not come back
        return
    if moment == "in mid-stream":
        await stream.receive_some()
    await trio.sleep(CHUNK_INTERVAL_S * 1.5)  # so that chunks are on their way, or would be
    left_s = asker.hang_up(goodbye)
    if not await _in_time(seen.left):
        tally.missed += 1
        return
    tally.aborts_ms[f"{moment}, {goodbye}"].append((seen.left_s - left_s) * 1000)


async def _listen(gateway: GatewayProcess, tally: Tally, number: int, stop: trio.Event) -> None:
    """One stream after the other, each read to its end, until nobody hangs up any more."""
    await trio.sleep(number * CHUNK_INTERVAL_S / OTHERS)
    while not stop.is_set():
        stream = await trio.open_tcp_stream("127.0.0.1", gateway.port)
        async with aclosing(stream):
            await stream.send_all(_request(gateway, f"say {OTHERS_CHUNKS} {number}", stream=True))
            text = b""
            while b"[DONE]" not in text:
                piece = await stream.receive_some()
                if not piece:
                    break
                text += piece
        whole = text.count(TALKED.encode()) == OTHERS_CHUNKS and b"[DONE]" in text
        tally.others_whole += whole
        tally.others_hurt += not whole


def _request(gateway: GatewayProcess, prompt: str, *, stream: bool) -> bytes:
    body = {"model": "m", "messages": [{"role": "user", "content": prompt}], "stream": stream}
    return make_request("POST", "/v1/chat/completions", gateway.token, body, port=gateway.port)


async def _in_time(event: trio.Event) -> bool:
    with trio.move_on_after(ABORT_TIMEOUT_S):
        await event.wait()
        return True
    return False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
