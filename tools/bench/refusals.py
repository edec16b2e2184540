"""Refusals: how soon a full class says 429, with 64 clients asking."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import trio

from tools.bench.common import (
    Figure,
    at_most,
    cpu_s,
    exactly,
    fetch,
    make_request,
    parse_arguments,
    percentile,
    report,
    told,
)
from tools.bench.gateway_process import GatewayProcess, open_gateway
from tools.bench.hammer import Volley, hammer
from tools.bench.slow_upstream import SlowUpstream, open_slow_upstream

CLIENTS = 64
GOAL_P99_MS = 20.0
TITLE = f"refusals: a full class, {CLIENTS} clients"


@dataclass(frozen=True, slots=True)
class Pattern:
    """How the clients ask. pace_s: one request per client in so many seconds; 0: the next at once after each answer."""

    name: str
    total: int
    pace_s: float


# What a client sees is the gateway's work plus the queue in front of it. With 64 requests in flight all the time the
# queue is 64 deep by construction, and p99 is 64 times the CPU time of one; paced clients show an open door's latency.
PATTERNS = (
    Pattern("each 2 a second (128/s)", 1280, 0.5),
    Pattern("each 4 a second (256/s)", 2560, 0.25),
    Pattern("back to back, 64 in flight", 10000, 0.0),
)


def main(argv: Sequence[str]) -> int:
    """Measure and print. Exit 1 if a promise was broken."""
    arguments = parse_arguments(argv, TITLE)
    return report(TITLE, trio.run(measure), arguments.json)


async def measure() -> list[Figure]:
    """Fill both slots, let 64 clients ask, and look at the slots afterwards."""
    figures: list[Figure] = []
    async with open_slow_upstream() as upstream, open_gateway(_environment(upstream)) as gateway:
        async with trio.open_nursery() as holders:
            limit = (await gateway.slots()).limit
            for number in range(limit):
                holders.start_soon(_hold, gateway, f"hold {number}")
            if not await gateway.wait_for_inflight(limit, 10):
                raise RuntimeError("the slots could not be filled")
            await _volley(gateway, Pattern("warm-up", 500, 0.0))
            for pattern in PATTERNS:
                figures += await _measure_pattern(gateway, pattern)
            slots = await gateway.slots()
            figures.append(exactly("slots taken while refusing", slots.inflight, "", limit))
            holders.cancel_scope.cancel()
        await gateway.wait_for_inflight(0, 5)
        figures.append(exactly("slots free once the holders left", (await gateway.slots()).available, "", limit))
    return figures


def _environment(upstream: SlowUpstream) -> dict[str, str]:
    return {"IMAGES_BACKEND": "http_openai_images", "IMAGES_HTTP_BASE_URL": upstream.base_url}


async def _hold(gateway: GatewayProcess, prompt: str) -> None:
    body = {"prompt": prompt, "size": "64x64"}
    await fetch(gateway.port, "POST", "/v1/images/generations", gateway.token, body, timeout_s=300)


async def _volley(gateway: GatewayProcess, pattern: Pattern) -> Volley:
    body = {"prompt": "one too many", "size": "64x64"}
    request = make_request("POST", "/v1/images/generations", gateway.token, body, port=gateway.port)
    shoot = partial(
        hammer, gateway.port, [request], clients=CLIENTS, total=pattern.total, pace_s=pattern.pace_s, timeout_s=110
    )
    return await trio.to_thread.run_sync(shoot)


async def _measure_pattern(gateway: GatewayProcess, pattern: Pattern) -> list[Figure]:
    before_s = cpu_s(gateway.pid)
    volley = await _volley(gateway, pattern)
    used_s = cpu_s(gateway.pid) - before_s
    times_ms = volley.latencies_ms
    told_so = sum(shot.has_retry_after for shot in volley.shots)
    return [
        told(f"{pattern.name}: p50", percentile(times_ms, 50), "ms"),
        at_most(f"{pattern.name}: p99", percentile(times_ms, 99), "ms", GOAL_P99_MS),
        told(f"{pattern.name}: max", max(times_ms, default=float("nan")), "ms"),
        told(f"{pattern.name}: answers", len(times_ms) / volley.elapsed_s, "1/s"),
        told(f"{pattern.name}: gateway CPU a refusal", used_s / pattern.total * 1e6, "us"),
        exactly(f"{pattern.name}: answered 429", volley.count(429), "", pattern.total),
        exactly(f"{pattern.name}: with Retry-After", told_so, "", pattern.total),
        told(f"{pattern.name}: reconnects", volley.reconnects, ""),
    ]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
