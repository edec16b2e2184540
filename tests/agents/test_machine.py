"""Runs as a state machine: whatever is run, left in the middle, verified and forked in whatever order, on one state
directory over many lives of the gateway: every run verifies, forks at every step, and nothing is left held."""

import json
import os
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import trio
import trio.testing
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule

from tests.asgi import open_call
from tests.house import AUTH, House, open_house_with_records

T = TypeVar("T")

RUN, REPLAY = "/v1/agent/run", "/v1/agent/replay"
TEXTS = ("plain", "look", "both", "loop", "broken", "refused", "program", "fails")
SCRIPT: Mapping[str, Any] = {
    "models": ["mock", "second"],
    "rules": [
        {"when": {"tools": False, "contains": "fails"}, "answer": {"fail": {"status": 500, "message": "no"}}},
        {"when": {"tools": False}, "answer": {"text": "I plan."}},
        {"when": {"contains": "loop"}, "answer": {"tool_calls": [{"name": "noop", "arguments": {}}]}},
        {"when": {"contains": "broken"}, "answer": {"tool_calls": [{"name": "noop", "arguments": "{no"}]}},
        {
            "when": {"contains": "look", "tool_results": 0},
            "answer": {"tool_calls": [{"name": "noop", "arguments": {"text": "é"}}]},
        },
        {
            "when": {"contains": "both", "tool_results": 0},
            "answer": {
                "tool_calls": [{"name": "noop", "arguments": {"text": "1"}}, {"name": "sleeper", "arguments": {}}]
            },
        },
        {
            "when": {"contains": "refused", "tool_results": 0},
            "answer": {"tool_calls": [{"name": "noop", "arguments": {"x": 1}}, {"name": "shell", "arguments": {}}]},
        },
        {
            "when": {"contains": "program", "tool_results": 0},
            "answer": {"tool_calls": [{"name": "sleeper", "arguments": {}}]},
        },
        {"answer": {"text": "Done: {{tool_result}}"}},
    ],
}
SPEC = {"model": "mock", "tier": 2, "tools_allowlist": ["noop", "sleeper"], "max_turns": 3}
SPECS = {"default": SPEC, "parallel": {**SPEC, "parallel_tools": True}, "poor": {**SPEC, "max_tool_calls": 1}}
PROGRAM = {"type": "subprocess", "argv": ["sleep", "0.02"], "timeout_sec": 5}
TOOLS = {"tools": [{"name": "sleeper", "version": "1", "parameters": {"type": "object"}, "exec": PROGRAM}]}


class Runs(RuleBasedStateMachine):
    """One state directory; every step of the machine is a life of the gateway."""

    runs = Bundle("runs")

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="agents-machine-"))
        files = {"MOCK_CHAT_SCRIPT": SCRIPT, "AGENT_SPECS_PATH": SPECS, "TOOLS_REGISTRY_PATH": TOOLS}
        for name, content in files.items():
            (self.folder / name).write_text(json.dumps(content))
        self.settings = {name: str(self.folder / name) for name in files}
        self.fds: int | None = None

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    @rule(target=runs, text=st.sampled_from(TEXTS), agent=st.sampled_from(sorted(SPECS)))
    def run(self, text: str, agent: str) -> str:
        async def work(house: House) -> str:
            answer = await house.post(RUN, {"input": text, "agent": agent})
            assert answer.status == 200
            return str(answer.json()["run_id"])

        return self.live(work)

    @rule(target=runs, text=st.sampled_from(TEXTS), events=st.integers(0, 5))
    def run_and_leave(self, text: str, events: int) -> Any:
        """Read so many events of a streamed run, then hang up."""

        async def work(house: House) -> str | None:
            body = json.dumps({"input": text, "stream": True}).encode()
            headers = {**AUTH, "content-type": "application/json"}
            seen = b""
            async with trio.open_nursery() as nursery:
                async with open_call(nursery, house.site.api, "POST", RUN, headers=headers, body=body) as exchange:
                    await exchange.started()
                    for _ in range(events):
                        seen += await exchange.chunk() or b""
                    exchange.disconnect()
                    await exchange.finished()
            rows = await house.components.agents.store.newest(limit=1, owner=None)
            return rows[0].run_id if rows and (not seen or rows[0].run_id.encode() in seen) else None

        found = self.live(work)
        return found if found is not None else multiple()

    @rule(run_id=runs)
    def verify(self, run_id: str) -> None:
        async def work(house: House) -> None:
            verdict = (await house.post(f"{REPLAY}/{run_id}", {"mode": "verify"})).json()
            assert verdict["identical"], verdict

        self.live(work)

    @rule(target=runs, run_id=runs, model=st.sampled_from([None, "mock:second"]), part=st.floats(0, 1))
    def fork(self, run_id: str, model: str | None, part: float) -> str:
        async def work(house: House) -> str:
            events = (await house.ask("GET", f"{REPLAY}/{run_id}")).json()["events"]
            steps = sum(event["step"] is not None for event in events)
            body = {"mode": "fork", "from_step": round(part * steps), **({"model": model} if model else {})}
            answer = await house.post(f"{REPLAY}/{run_id}", body)
            assert answer.status == 200, answer.body
            forked = answer.json()["run_id"]
            assert (await house.post(f"{REPLAY}/{forked}", {"mode": "verify"})).json()["identical"]
            return str(forked)

        return self.live(work)

    @invariant()
    def nothing_is_left(self) -> None:
        assert not [name for name in os.listdir(self.folder) if name.endswith(".tmp")]

    def live(self, work: Callable[[House], Awaitable[T]]) -> T:
        """One life: afterwards no slot, no place, no tool, no child and no descriptor is left of it."""

        async def one_life() -> T:
            async with open_house_with_records(self.folder, **self.settings) as house:
                result = await work(house)
                assert house.inflight() == 0
                assert house.components.toolbus.running == 0
                assert all(one.running == 0 for one in house.components.agents.admission.statistics())
                return result

        result = trio.run(one_life)
        assert not _children()
        fds = len(os.listdir("/proc/self/fd"))
        self.fds = fds if self.fds is None else self.fds
        assert fds <= self.fds
        return result


def _children() -> list[str]:
    return [child for child in Path("/proc/self/task").glob("*/children") for child in child.read_text().split()]


TestRuns = Runs.TestCase
TestRuns.settings = settings(
    max_examples=30, stateful_step_count=10, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
