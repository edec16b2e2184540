"""Tools: what a noop with its record costs beside a bare /health; refusals that leave nothing; health beside slow tools."""

import statistics
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import trio

from tools.bench.common import (
    Figure,
    at_most,
    cpu_s,
    exactly,
    make_request,
    parse_arguments,
    percentile,
    report,
    told,
)
from tools.bench.gateway_process import GatewayProcess, open_gateway
from tools.bench.hammer import Volley, hammer

ROUNDS = 5
CLIENTS = 32
CALLS = 2000
REFUSED, KINDS_OF_REFUSAL = 1000, 8
SLOW_TOOLS = 8  # as many as run at a time, by default
HEALTH_CALLS = 200
TIMEOUT_S = 120.0
GOAL_RATIO = 3.0
GOAL_HEALTH_MS = 250.0
TITLE = f"tools: medians of {ROUNDS} interleaved rounds of {CALLS} calls, {CLIENTS} connections"

_SETTINGS = {"TOOLS_DURABILITY": "batch", "TOOLS_ALLOW_SHELL": "true", "TOOLS_SHELL_ALLOWED_CMDS": "/bin/sleep"}
_NOOP = ("POST", "/v1/tools", {"name": "noop", "arguments": {"text": "a word"}})
_HEALTH = ("GET", "/health", None)
_REFUSALS: Sequence[tuple[str, str, Any]] = (
    ("POST", "/v1/tools/nothing", {}),
    ("POST", "/v1/tools/git", {"args": ["status"]}),
    ("POST", "/v1/tools", {"name": ""}),
    ("POST", "/v1/tools", {"arguments": {}}),
    ("POST", "/v1/tools/noop", {"text": 5}),
    ("POST", "/v1/tools/noop", {"unknown": "x"}),
    ("POST", "/v1/tools/noop", {"arguments": []}),
    ("POST", "/v1/tools/write_file", {"path": "a", "content": "b"}),
)


def main(argv: Sequence[str]) -> int:
    """Measure and print. Exit 1 if a promise was broken."""
    arguments = parse_arguments(argv, TITLE)
    return report(TITLE, trio.run(measure), arguments.json)


async def measure() -> list[Figure]:
    async with open_gateway(_SETTINGS) as gateway:
        await _cpu_us(gateway, _NOOP)  # warms up
        rounds = [(await _cpu_us(gateway, _HEALTH), await _cpu_us(gateway, _NOOP)) for _ in range(ROUNDS)]
        ratio = statistics.median(noop / health for health, noop in rounds)
        return [
            told("/health: CPU", statistics.median(health for health, _ in rounds), "us"),
            told("noop with its record (batch): CPU", statistics.median(noop for _, noop in rounds), "us"),
            at_most("noop / health", ratio, "times", GOAL_RATIO),
            *await _refusals(gateway),
            *await _beside_slow_tools(gateway),
        ]


async def _cpu_us(gateway: GatewayProcess, call: tuple[str, str, Any]) -> float:
    before_s = cpu_s(gateway.pid)
    volley = await _send(gateway, [call], CALLS)
    if volley.count(200) != CALLS:
        raise RuntimeError(f"{call[1]}: {volley.count(200)} of {CALLS} requests were answered")
    return (cpu_s(gateway.pid) - before_s) / CALLS * 1e6


async def _send(gateway: GatewayProcess, calls: Sequence[tuple[str, str, Any]], total: int) -> Volley:
    requests = [make_request(*call[:2], gateway.token, call[2], port=gateway.port) for call in calls]
    return await trio.to_thread.run_sync(
        partial(hammer, gateway.port, requests, clients=CLIENTS, total=total, timeout_s=TIMEOUT_S)
    )


async def _refusals(gateway: GatewayProcess) -> list[Figure]:
    """Eight kinds, a thousand of each; then one good call, which must find its slot at once."""
    volley = await _send(gateway, _REFUSALS, REFUSED * KINDS_OF_REFUSAL)
    good = await _send(gateway, [_NOOP], 1)
    return [
        exactly("refused calls that were answered 400 or 404", volley.count(400) + volley.count(404), "", REFUSED * 8),
        exactly("the good call after them: status", good.shots[0].status, "", 200),
        told("the good call after them: latency", good.latencies_ms[0], "ms"),
    ]


async def _beside_slow_tools(gateway: GatewayProcess) -> list[Figure]:
    sleep: Mapping[str, Any] = {"cmd": "/bin/sleep 5"}
    async with trio.open_nursery() as nursery:
        for _ in range(SLOW_TOOLS):
            nursery.start_soon(_send, gateway, [("POST", "/v1/tools/shell", sleep)], 1)
        with trio.fail_after(TIMEOUT_S):
            while _children(gateway.pid) < SLOW_TOOLS:  # noqa: ASYNC110 - another process: nothing tells us
                await trio.sleep(0.01)
        requests = [make_request("GET", "/health", gateway.token, None, port=gateway.port)]
        volley = await trio.to_thread.run_sync(
            partial(hammer, gateway.port, requests, clients=1, total=HEALTH_CALLS, timeout_s=TIMEOUT_S)
        )
        still = _children(gateway.pid)
    return [
        exactly("slow tools that ran meanwhile", still, "", SLOW_TOOLS),
        at_most("/health beside them: slowest", max(volley.latencies_ms), "ms", GOAL_HEALTH_MS),
        told("/health beside them: p50", percentile(volley.latencies_ms, 50), "ms"),
    ]


def _children(pid: int) -> int:
    return sum(len(file.read_text().split()) for file in Path(f"/proc/{pid}/task").glob("*/children"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
