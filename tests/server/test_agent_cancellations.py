"""A client may leave at any await of a run; each has a test that nothing is left but a transcript with its end."""

import json
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
import trio
import trio.testing

from appliance.toolbus.base import Outcome, Tool, ToolEnvironment
from appliance.toolbus.registry import BUILTINS
from tests.asgi import Exchange, open_call
from tests.house import AUTH, House, open_house_with_records

RUN, REPLAY, CHAT = "/v1/agent/run", "/v1/agent/replay", "/v1/chat/completions"
JSON_AUTH = {**AUTH, "content-type": "application/json"}
CALL = {"name": "noop", "arguments": {}}
SCRIPT: Mapping[str, Any] = {
    "models": ["mock"],
    "rules": [
        {"when": {"tools": False, "contains": "slow plan"}, "answer": {"text": "x", "first_byte_delay_s": 1000}},
        {"when": {"contains": "one tool", "tool_results": 0, "tools": True}, "answer": {"tool_calls": [CALL]}},
        {"when": {"contains": "two tools", "tool_results": 0, "tools": True}, "answer": {"tool_calls": [CALL, CALL]}},
        {"answer": {"text": "said"}},
    ],
}
SPECS = {"default": {"model": "mock"}, "together": {"model": "mock", "parallel_tools": True}}


@dataclass
class GatedTool:
    """The tool `noop`, which waits to be let go."""

    gate: trio.Event = field(default_factory=trio.Event)
    running: int = 0

    def make(self, environment: ToolEnvironment) -> Tool:
        return Tool("noop", "1", "Waits.", {"type": "object"}, side_effects=False, run=self._run)

    async def _run(self, arguments: Mapping[str, Any]) -> Outcome:
        self.running += 1
        try:
            await self.gate.wait()
        finally:
            self.running -= 1
        return Outcome({})


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> GatedTool:
    gated = GatedTool()
    monkeypatch.setitem(cast("dict[str, object]", BUILTINS), "noop", gated.make)
    return gated


@asynccontextmanager
async def agents(tmp_path: Path, **settings: str) -> AsyncIterator[House]:
    """A house that must be empty again when it is left: no slot, no tool, no place, no descriptor."""
    (tmp_path / "script.json").write_text(json.dumps(SCRIPT))
    (tmp_path / "specs.json").write_text(json.dumps(SPECS))
    paths = {"MOCK_CHAT_SCRIPT": str(tmp_path / "script.json"), "AGENT_SPECS_PATH": str(tmp_path / "specs.json")}
    async with open_house_with_records(tmp_path, **{**paths, **settings}) as house:
        await house.post(RUN, {"input": "the first"})
        yield house
        assert not open_transcripts()
        assert house.inflight() == 0
        assert house.components.toolbus.running == 0
        assert [(one.running, one.waiting) for one in house.components.agents.admission.statistics()] == [(0, 0)] * len(
            house.components.agents.admission.statistics()
        )


def open_transcripts() -> list[str]:
    """Files of runs that are open in this process."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the one that lists them
            found.append(os.readlink(f"/proc/self/fd/{name}"))
    return [target for target in found if "/run-" in target]


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(10):
        while not condition():  # noqa: ASYNC110 -- a thread's progress has no event
            await trio.sleep(0.001)


def asking(house: House, nursery: trio.Nursery, text: str, *, path: str = RUN, **fields: Any) -> Any:
    body = {"input": text, **fields} if path == RUN else fields
    window = 0 if fields.get("stream") else 100
    return open_call(
        nursery, house.site.api, "POST", path, headers=JSON_AUTH, body=json.dumps(body).encode(), window=window
    )


async def leave(exchange: Exchange) -> None:
    exchange.disconnect()
    await exchange.finished()


async def newest(house: House) -> list[Mapping[str, Any]]:
    """The events of the last run, and its row says the same as its file."""
    [row, *_] = await house.components.agents.store.newest(limit=1, owner=None)
    stored = await house.components.agents.store.load(row.run_id)
    assert stored is not None
    assert stored.flaw is None
    last = stored.events[-1]
    assert (row.ok, row.error, row.steps) == (last["ok"], last.get("error"), last["steps"])
    assert last["steps"] == len(stored.events) - 2
    return list(stored.events)


def kinds(events: list[Mapping[str, Any]]) -> list[str]:
    return [event["type"] for event in events]


async def assert_cancelled(house: House, *before: str) -> None:
    events = await newest(house)
    assert kinds(events) == ["run_started", *before, "run_failed"]
    assert events[-1]["error"] == "cancelled"


def running(house: House) -> int:
    return sum(one.running for one in house.components.agents.admission.statistics())


@pytest.mark.parametrize("stream", [False, True])
async def test_while_it_waits_for_its_place(tmp_path: Path, nursery: trio.Nursery, stream: bool) -> None:
    async with agents(tmp_path, AGENT_QUEUE_TIMEOUT_SEC="1000") as house:
        admission = house.components.agents.admission
        async with admission.hold("a", "mock", 0), admission.hold("b", "mock", 0):
            async with admission.hold("c", "mock", 0), admission.hold("d", "mock", 0):
                async with asking(house, nursery, "hi", stream=stream) as exchange:
                    await until(lambda: any(one.waiting for one in admission.statistics()))
                    await leave(exchange)
        assert kinds(await newest(house))[-1] == "run_completed"  # the one before: this one never was
        assert len(await house.components.agents.store.newest(limit=9, owner=None)) == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_while_its_first_event_is_kept(tmp_path: Path, nursery: trio.Nursery, stream: bool) -> None:
    async with agents(tmp_path) as house:
        call = asking(house, nursery, "hi", stream=stream)
        async with busy_disk(house):
            exchange = await call.__aenter__()
            await until(lambda: writers_waiting(house) == 1)
            exchange.disconnect()
            await trio.testing.wait_all_tasks_blocked()
        await call.__aexit__(None, None, None)
        await assert_cancelled(house)


@pytest.mark.parametrize("stream", [False, True])
async def test_while_the_model_answers(tmp_path: Path, nursery: trio.Nursery, stream: bool) -> None:
    async with agents(tmp_path) as house:
        async with asking(house, nursery, "slow plan", stream=stream) as exchange:
            await until(lambda: house.inflight() == 1)
            await leave(exchange)
        await assert_cancelled(house)


async def test_while_a_model_call_waits_for_its_slot(tmp_path: Path, nursery: trio.Nursery) -> None:
    async with agents(tmp_path, AGENT_QUEUE_TIMEOUT_SEC="1000") as house:
        limit = next(slot.limit for slot in house.components.leases.statistics() if slot.backend_class == "mock")
        chat = json.dumps({"model": "mock", "messages": [{"role": "user", "content": "slow plan"}]}).encode()
        async with AsyncExitStack() as others:
            for _ in range(limit):
                other = open_call(nursery, house.site.api, "POST", CHAT, headers=JSON_AUTH, body=chat)
                await others.enter_async_context(other)
            await until(lambda: house.inflight() == limit)
            async with asking(house, nursery, "hi") as exchange:
                await until(lambda: running(house) == 1)
                await trio.testing.wait_all_tasks_blocked(0.02)
                await leave(exchange)
        await assert_cancelled(house)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("text", "agent", "runs"), [("one tool", "default", 1), ("two tools", "together", 2)])
async def test_while_tools_run(
    tmp_path: Path, tool: GatedTool, nursery: trio.Nursery, text: str, agent: str, runs: int, stream: bool
) -> None:
    async with agents(tmp_path) as house:
        async with asking(house, nursery, text, agent=agent, stream=stream) as exchange:
            if stream:
                await take(exchange, 3)
            await until(lambda: tool.running == runs)
            await leave(exchange)
        assert tool.running == 0
        await assert_cancelled(house, "plan", "assistant")


@pytest.mark.parametrize("stream", [False, True])
async def test_while_an_event_is_kept(tmp_path: Path, tool: GatedTool, nursery: trio.Nursery, stream: bool) -> None:
    """Cut off before its turn at the disk, the event is not there; nothing of it is."""
    async with agents(tmp_path) as house:
        async with asking(house, nursery, "one tool", stream=stream) as exchange:
            if stream:
                await take(exchange, 3)
            await until(lambda: tool.running == 1)
            async with busy_disk(house):
                tool.gate.set()
                await until(lambda: writers_waiting(house) == 1)
                exchange.disconnect()
                await trio.testing.wait_all_tasks_blocked()
            await exchange.finished()
        await assert_cancelled(house, "plan", "assistant")


@pytest.mark.parametrize("stream", [False, True])
async def test_while_the_last_event_is_kept(
    tmp_path: Path, tool: GatedTool, nursery: trio.Nursery, stream: bool
) -> None:
    """It had come to its end before the client left: its end is the one that it came to."""
    async with agents(tmp_path) as house:
        shown = house.components.agents.store.begin

        class SlowEnd:
            ending = trio.Event()
            go_on = trio.Event()

        def begin(run_id: str) -> Any:
            sink = shown(run_id)
            append = sink.append

            async def slow(fields: Mapping[str, Any]) -> None:
                if fields["type"] == "run_completed":
                    SlowEnd.ending.set()
                    await SlowEnd.go_on.wait()
                await append(fields)

            sink.append = slow  # type: ignore[method-assign]  # a slow disk, at one event alone
            return sink

        house.components.agents.store.begin = begin  # type: ignore[method-assign]  # the same
        async with asking(house, nursery, "hi", stream=stream) as exchange:
            if stream:
                await take(exchange, 3)
            await SlowEnd.ending.wait()
            exchange.disconnect()
            await trio.testing.wait_all_tasks_blocked()
            SlowEnd.go_on.set()
            await exchange.finished()
        assert kinds(await newest(house)) == ["run_started", "plan", "assistant", "run_completed"]


async def test_while_its_events_are_sent_to_a_client_that_does_not_read(
    tmp_path: Path, tool: GatedTool, nursery: trio.Nursery
) -> None:
    """A client that does not read does not hold up the run."""
    async with agents(tmp_path) as house:
        async with asking(house, nursery, "one tool", stream=True) as exchange:
            await until(lambda: tool.running == 1)
            await leave(exchange)
        await assert_cancelled(house, "plan", "assistant")
        tool.gate.set()
        async with asking(house, nursery, "one tool", stream=True) as exchange:
            store = house.components.agents.store
            with trio.fail_after(10):
                while (await store.newest(limit=1, owner=None))[0].ok is not True:  # noqa: ASYNC110 -- as in until
                    await trio.sleep(0.001)
            await leave(exchange)
        assert kinds(await newest(house))[-1] == "run_completed"


async def test_while_a_run_is_verified(tmp_path: Path, nursery: trio.Nursery) -> None:
    async with agents(tmp_path) as house:
        done = (await house.post(RUN, {"input": "hi"})).json()
        async with busy_disk(house):
            path = f"{REPLAY}/{done['run_id']}"
            async with asking(house, nursery, "", path=path, mode="verify") as exchange:
                await until(lambda: writers_waiting(house) == 1)
                await leave(exchange)


@pytest.mark.parametrize("stream", [False, True])
async def test_while_a_fork_runs_live(tmp_path: Path, nursery: trio.Nursery, stream: bool) -> None:
    async with agents(tmp_path) as house:
        async with asking(house, nursery, "slow plan") as exchange:
            await until(lambda: house.inflight() == 1)
            await leave(exchange)
        [row, *_] = await house.components.agents.store.newest(limit=1, owner=None)
        path = f"{REPLAY}/{row.run_id}"
        async with asking(house, nursery, "", path=path, mode="fork", from_step=0, stream=stream) as exchange:
            await until(lambda: house.inflight() == 1)
            await leave(exchange)
        await assert_cancelled(house)
        assert (await newest(house))[0]["forked_from"] == {"run_id": row.run_id, "step": 0}


async def take(exchange: Exchange, events: int) -> None:
    for _ in range(events):
        await exchange.chunk()


@asynccontextmanager
async def busy_disk(house: House) -> AsyncIterator[None]:
    """All threads of the run store are taken while the context is open."""
    limiter = house.components.agents.store._files_limiter
    holders = [object() for _ in range(int(limiter.total_tokens))]
    for holder in holders:
        limiter.acquire_on_behalf_of_nowait(holder)
    try:
        yield
    finally:
        for holder in holders:
            limiter.release_on_behalf_of(holder)


def writers_waiting(house: House) -> int:
    return house.components.agents.store._files_limiter.statistics().tasks_waiting
