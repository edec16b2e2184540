"""Agents: what a step costs beside the same calls made alone, and how soon a run is over when its client leaves."""

import json
import statistics
import sys
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import trio

from tools.bench.common import (
    Figure,
    at_most,
    cpu_s,
    exactly,
    fetch_json,
    make_request,
    parse_arguments,
    percentile,
    report,
    told,
)
from tools.bench.gateway_process import GatewayProcess, open_gateway
from tools.bench.hammer import hammer

ROUNDS = 5
CLIENTS = 4  # as many runs as a class takes at a time
TURNS = 8  # the default; each is a plan, an action and a tool
RUNS, CHATS, TOOLS = 60, 960, 480  # as many calls of each kind alone as there are in the runs
LEAVERS = 20
TIMEOUT_S = 120.0
GOAL_RATIO = 4.0
GOAL_LEAVE_MS = 100.0
SLOTS = "mock.chat"
TITLE = f"agents: medians of {ROUNDS} interleaved rounds of {RUNS} runs"

_NOOP = {"name": "noop", "arguments": {"text": "a word"}}
_SCRIPT: Mapping[str, Any] = {
    "models": ["mock"],
    "rules": [
        {"when": {"contains": "leave the model"}, "answer": {"text": "x", "first_byte_delay_s": 500}},
        {"when": {"system_contains": "planning"}, "answer": {"text": "I call the tool."}},
        {"when": {"contains": "leave the tool"}, "answer": {"tool_calls": [{"name": "sleeper", "arguments": {}}]}},
        {"when": {"contains": "work"}, "answer": {"tool_calls": [_NOOP]}},
        {"answer": {"text": "I call the tool."}},
    ],
}
_SPECS = {
    "default": {"model": "mock", "max_turns": TURNS},
    "sleeper": {"model": "mock", "tier": 2, "tools_allowlist": ["sleeper"]},
}
_SLEEPER = {
    "name": "sleeper",
    "version": "1",
    "description": "Sleeps.",
    "parameters": {"type": "object"},
    "exec": {"type": "subprocess", "argv": ["sleep", "500"], "timeout_sec": 500},
}


@dataclass(frozen=True, slots=True)
class Cost:
    """Gateway CPU in microseconds, of one round. A turn is two model calls and a tool: three steps."""

    run: float
    chat: float
    tool: float

    @property
    def alone(self) -> float:
        """The calls of one run, each made alone."""
        return TURNS * (2 * self.chat + self.tool)

    @property
    def turn(self) -> float:
        """A whole turn as a multiple of one chat and one tool."""
        return self.run / TURNS / (self.chat + self.tool)


def main(argv: Sequence[str]) -> int:
    """Measure and print. Exit 1 if a promise was broken."""
    arguments = parse_arguments(argv, TITLE)
    return report(TITLE, trio.run(measure), arguments.json)


async def measure() -> list[Figure]:
    with tempfile.TemporaryDirectory(prefix="bench-agents-") as made:
        async with open_gateway(_settings(Path(made))) as gateway:
            await _cost(gateway)  # warms up
            costs = [await _cost(gateway) for _ in range(ROUNDS)]
            return [*_cost_figures(costs), *await _leave_figures(gateway)]


def _settings(folder: Path) -> dict[str, str]:
    files = {"MOCK_CHAT_SCRIPT": _SCRIPT, "AGENT_SPECS_PATH": _SPECS, "TOOLS_REGISTRY_PATH": {"tools": [_SLEEPER]}}
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    return {name: str(folder / name) for name in files}


def _cost_figures(costs: Sequence[Cost]) -> list[Figure]:
    def median(name: str) -> float:
        return float(statistics.median(getattr(cost, name) for cost in costs))

    return [
        told("a chat call alone: CPU", median("chat"), "us"),
        told("a noop tool alone: CPU", median("tool"), "us"),
        told(f"a run of {3 * TURNS} steps: CPU", median("run"), "us"),
        told("a step: CPU", median("run") / (3 * TURNS), "us"),
        at_most("run / the same calls alone", statistics.median(c.run / c.alone for c in costs), "times", GOAL_RATIO),
        at_most("turn / one chat and one tool alone", statistics.median(c.turn for c in costs), "times", GOAL_RATIO),
    ]


async def _cost(gateway: GatewayProcess) -> Cost:
    chat = {"model": "mock", "messages": [{"role": "user", "content": "a word"}]}
    return Cost(
        run=await _cpu_us(gateway, "/v1/agent/run", {"input": "work"}, RUNS),
        chat=await _cpu_us(gateway, "/v1/chat/completions", chat, CHATS),
        tool=await _cpu_us(gateway, "/v1/tools", _NOOP, TOOLS),
    )


async def _cpu_us(gateway: GatewayProcess, path: str, body: object, total: int) -> float:
    request = make_request("POST", path, gateway.token, body, port=gateway.port)
    before_s = cpu_s(gateway.pid)
    volley = await trio.to_thread.run_sync(
        partial(hammer, gateway.port, [request], clients=CLIENTS, total=total, timeout_s=TIMEOUT_S)
    )
    if volley.count(200) != total:
        raise RuntimeError(f"{path}: {volley.count(200)} of {total} requests were answered")
    return (cpu_s(gateway.pid) - before_s) / total * 1e6


async def _leave_figures(gateway: GatewayProcess) -> list[Figure]:
    model_ms = [await _leave(gateway, "default", "leave the model", _slot_is_held) for _ in range(LEAVERS)]
    tool_ms = [await _leave(gateway, "sleeper", "leave the tool", _tool_runs) for _ in range(LEAVERS)]
    listed = await fetch_json(gateway.port, f"/v1/agent/runs?limit={2 * LEAVERS}", gateway.token)
    cancelled = sum(run["error"] == "cancelled" for run in listed["data"])
    return [
        at_most("client leaves a model call: over after, worst", max(model_ms), "ms", GOAL_LEAVE_MS),
        told("client leaves a model call: over after, p50", percentile(model_ms, 50), "ms"),
        at_most("client leaves a tool's process: over after, worst", max(tool_ms), "ms", GOAL_LEAVE_MS),
        told("client leaves a tool's process: over after, p50", percentile(tool_ms, 50), "ms"),
        exactly("transcripts that end as cancelled", cancelled, "", 2 * LEAVERS),
    ]


IsThere = Callable[[GatewayProcess], Awaitable[bool]]


async def _leave(gateway: GatewayProcess, agent: str, text: str, is_there: IsThere) -> float:
    """Milliseconds from hanging up until the run has its end, and its slot or its process is gone."""
    body = {"agent": agent, "input": text, "stream": True}
    async with await trio.open_tcp_stream("127.0.0.1", gateway.port) as client:
        await client.send_all(make_request("POST", "/v1/agent/run", gateway.token, body, port=gateway.port))
        with trio.fail_after(TIMEOUT_S):
            while not await is_there(gateway):  # noqa: ASYNC110 - another process: nothing tells us
                await trio.sleep(0.002)
    left_s = trio.current_time()
    with trio.fail_after(TIMEOUT_S):
        while await is_there(gateway) or await _goes_on(gateway):  # noqa: ASYNC110 - the same
            await trio.sleep(0.001)
    return (trio.current_time() - left_s) * 1000


async def _slot_is_held(gateway: GatewayProcess) -> bool:
    return (await gateway.slots(SLOTS)).inflight > 0


async def _tool_runs(gateway: GatewayProcess) -> bool:
    return _has_child(gateway.pid)


def _has_child(pid: int) -> bool:
    children = [file.read_text() for file in Path(f"/proc/{pid}/task").glob("*/children")]
    return any("sleep" in _name(child) for text in children for child in text.split())


def _name(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text()
    except (FileNotFoundError, ProcessLookupError):  # it ended before it was opened, or before it was read
        return ""


async def _goes_on(gateway: GatewayProcess) -> bool:
    [newest] = (await fetch_json(gateway.port, "/v1/agent/runs?limit=1", gateway.token))["data"]
    return newest["ok"] is None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
