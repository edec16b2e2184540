"""Soak: thousands of requests and hang-ups later, memory, descriptors and slots are where they were."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import trio

from tools.bench.clients import GENERATIONS, GOODBYES, Goodbye, open_asker
from tools.bench.common import (
    Figure,
    at_most,
    exactly,
    make_request,
    parse_arguments,
    report,
    rss_mb,
    settled_fds,
    told,
)
from tools.bench.gateway_process import GatewayProcess, Slots, open_gateway
from tools.bench.hammer import Volley, hammer
from tools.bench.slow_upstream import SlowUpstream, open_slow_upstream

WARM_UP_REQUESTS = 500
WARM_UP_DISCONNECTS = 50
REQUESTS = 10_000
DISCONNECTS = 1_000
ROUNDS = 10  # requests and hang-ups take turns
CLIENTS = 8
GOAL_GROWTH_PERCENT = 10.0
TITLE = f"soak: {REQUESTS} requests and {DISCONNECTS} disconnects"


@dataclass(frozen=True, slots=True)
class Reading:
    """The gateway at rest."""

    rss_mb: float
    fds: dict[str, str]
    slots: Slots


def main(argv: Sequence[str]) -> int:
    """Measure and print. Exit 1 if a promise was broken."""
    arguments = parse_arguments(argv, TITLE)
    return report(TITLE, trio.run(measure), arguments.json)


async def measure() -> list[Figure]:
    """Warm up, read, soak, read again."""
    async with open_slow_upstream() as upstream:
        environment = {"IMAGES_BACKEND": "http_openai_images", "IMAGES_HTTP_BASE_URL": upstream.base_url}
        async with open_gateway(environment) as gateway:
            await _shoot(gateway, WARM_UP_REQUESTS)
            await _hang_up_often(gateway, upstream, WARM_UP_DISCONNECTS)
            before = await _read(gateway, None)
            volleys = []
            for _ in range(ROUNDS):
                volleys.append(await _shoot(gateway, REQUESTS // ROUNDS))
                await _hang_up_often(gateway, upstream, DISCONNECTS // ROUNDS)
            after = await _read(gateway, len(before.fds))
    return _figures(before, after, volleys)


def _figures(before: Reading, after: Reading, volleys: Sequence[Volley]) -> list[Figure]:
    statuses = sorted({shot.status for volley in volleys for shot in volley.shots})
    seconds = sum(volley.elapsed_s for volley in volleys)
    growth = (after.rss_mb / before.rss_mb - 1) * 100
    extra = set(after.fds.values()) - set(before.fds.values())
    if len(after.fds) != len(before.fds):
        print(f"descriptors that are new: {', '.join(sorted(extra))}")
    return [
        *(told(f"answered {status}", sum(volley.count(status) for volley in volleys), "") for status in statuses),
        exactly("lost without an answer", sum(volley.lost for volley in volleys), "", 0),
        exactly("answered 500", sum(volley.count(500) for volley in volleys), "", 0),
        told("rate while asking", REQUESTS / seconds, "1/s"),
        told("resident memory before", before.rss_mb, "MB"),
        told("resident memory after", after.rss_mb, "MB"),
        at_most("growth", growth, "%", GOAL_GROWTH_PERCENT),
        exactly("descriptors", len(after.fds), "", len(before.fds)),
        exactly("slots free", after.slots.available, "", before.slots.limit),
        exactly("slots taken", after.slots.inflight, "", 0),
    ]


def _requests(gateway: GatewayProcess) -> list[bytes]:
    """A day's mixture: pictures in both forms, looks at health and status, and mistakes of every kind."""
    make = partial(make_request, port=gateway.port)
    picture = {"prompt": "draw a lighthouse", "size": "64x64"}
    return [
        make("POST", GENERATIONS, gateway.token, picture),
        make("GET", "/health", None),
        make("POST", GENERATIONS, gateway.token, {**picture, "response_format": "b64_json"}),
        make("GET", "/v1/gateway/status", gateway.token),
        make("POST", GENERATIONS, gateway.token, {**picture, "n": 5}),
        make("GET", "/metrics", gateway.token),
        make("POST", GENERATIONS, gateway.token, {**picture, "n": 2, "seed": 7}),
        make("GET", "/nowhere", gateway.token),
        make("POST", GENERATIONS, None, picture),
        make("GET", "/readyz", None),
    ]


async def _shoot(gateway: GatewayProcess, total: int) -> Volley:
    shoot = partial(hammer, gateway.port, _requests(gateway), clients=CLIENTS, total=total)
    return await trio.to_thread.run_sync(shoot)


async def _hang_up_often(gateway: GatewayProcess, upstream: SlowUpstream, count: int) -> None:
    """Two at a time, in every slot, alternately FIN and RST."""
    upstream.seen.clear()
    for first in range(0, count, 2):
        async with trio.open_nursery() as nursery:
            for number in range(first, min(first + 2, count)):
                nursery.start_soon(_hang_up, gateway, upstream, f"hold {number}", GOODBYES[(number // 2) % 2])
        await gateway.wait_for_inflight(0, 5)


async def _hang_up(gateway: GatewayProcess, upstream: SlowUpstream, prompt: str, goodbye: Goodbye) -> None:
    asker = await open_asker(gateway, prompt)
    await asker.send()
    seen = upstream.seen[prompt]
    with trio.fail_after(10):
        await seen.arrived.wait()
    asker.hang_up(goodbye)
    with trio.fail_after(10):
        await seen.left.wait()


async def _read(gateway: GatewayProcess, wanted_fds: int | None) -> Reading:
    """Wait until it is at rest, then look."""
    fds = await settled_fds(gateway.pid, wanted_fds)
    return Reading(rss_mb(gateway.pid), fds, await gateway.slots())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
