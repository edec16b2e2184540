"""Runner: budgets bind while a call is in flight, and a run that has begun has its end, whoever leaves."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import trio
import trio.testing

from appliance.admission.grace import Grace
from appliance.agents.recorded import MemorySink
from appliance.agents.runner import EDGE_EVENT_S, FAULT, AgentRun
from appliance.agents.step import RUNTIME, TOOL_IO
from appliance.protocol.errors import BackendOverloaded, StorageFull
from tests.agents.support import ScriptedModel, ScriptedTools, call, kinds, make_head, run, said


async def test_a_run_is_plan_action_tools_and_again_until_there_is_no_call() -> None:
    model = ScriptedModel([said("plan"), said("", call(n=1), call(n=2)), said("plan 2"), said("done")])
    ended, events = await run(make_head(), model)
    assert (ended.ok, ended.output_text) == (True, "done")
    assert kinds(events) == ["run_started", "plan", "assistant", "tool", "tool", "plan", "assistant", "run_completed"]
    assert [event["step"] for event in events] == [None, 0, 1, 2, 3, 4, 5, None]
    assert [event["turn"] for event in events] == [None, 0, 0, 0, 0, 1, 1, 1]
    assert events[2]["usage"] == {"prompt_tokens": 3, "completion_tokens": 2}
    assert all(event["ts"] == 1_700_000_000.5 for event in events)


async def test_the_bytes_that_were_sent_and_received_are_in_the_transcript() -> None:
    answer = said("done")
    model = ScriptedModel([said("plan"), answer])
    _, events = await run(make_head(), model)
    assert events[2]["request"].encode() == model.asked[1].request
    assert events[2]["response"].encode() == answer


async def test_the_runtime_budget_cuts_off_a_model_call_in_flight(autojump_clock: trio.testing.MockClock) -> None:
    model = ScriptedModel([said("plan")])
    began = trio.current_time()
    ended, events = await run(make_head(max_runtime_sec=7.0), model)
    assert trio.current_time() - began == pytest.approx(7)
    assert (ended.error, model.cancelled) == (RUNTIME, 1)
    assert events[-1]["error"] == RUNTIME


async def test_the_runtime_budget_cuts_off_a_tool_in_flight(autojump_clock: trio.testing.MockClock) -> None:
    tools = ScriptedTools(delays={1: 1000})
    ended, _ = await run(make_head(max_runtime_sec=7.0), ScriptedModel([said(), said("", call(n=1))]), tools)
    assert (ended.error, tools.running) == (RUNTIME, 0)


async def test_calls_that_are_left_when_the_io_budget_is_spent_are_not_run() -> None:
    tools = ScriptedTools(io_bytes=60)
    model = ScriptedModel([said(), said("", call(n=1), call(n=2), call(n=3))])
    ended, _ = await run(make_head(max_total_tool_io_bytes=100), model, tools)
    assert ended.error == TOOL_IO
    assert [one.arguments["n"] for one in tools.asked] == [1, 2]


async def test_an_upstream_error_ends_the_run_and_says_what_it_was() -> None:
    full = BackendOverloaded(backend_class="mock", route_kind="chat", limit=1, retry_after_s=5)
    ended, events = await run(make_head(), ScriptedModel([said(), full]))
    assert (ended.error, ended.code) == (full.message, "backend_overloaded")
    assert events[-1]["type"] == "run_failed"


async def test_tools_run_one_after_the_other_unless_the_spec_says_otherwise(
    autojump_clock: trio.testing.MockClock,
) -> None:
    tools = ScriptedTools(delays={1: 3, 2: 2, 3: 1})
    three = said("", call(n=1), call(n=2), call(n=3))
    await run(make_head(), ScriptedModel([said(), three, said(), said("done")]), tools)
    assert tools.most == 1


async def test_tools_that_run_together_have_their_events_in_the_order_of_the_calls(
    autojump_clock: trio.testing.MockClock,
) -> None:
    tools = ScriptedTools(delays={1: 3, 2: 2, 3: 1})
    three = said("", call(n=1), call(n=2), call(n=3))
    began = trio.current_time()
    _, events = await run(make_head(parallel_tools=True), ScriptedModel([said(), three, said(), said("done")]), tools)
    assert (tools.most, trio.current_time() - began) == (3, pytest.approx(3))
    assert [event["arguments"]["n"] for event in events if event["type"] == "tool"] == [1, 2, 3]


async def test_a_tool_that_fails_the_run_while_others_run_ends_them(autojump_clock: trio.testing.MockClock) -> None:
    tools = ScriptedTools(delays={1: 1, 2: 50}, fail=StorageFull("The record of this call"))
    model = ScriptedModel([said(), said("", call(n=1), call(n=2))])
    ended, _ = await run(make_head(parallel_tools=True), model, tools)
    assert (ended.code, tools.running) == ("storage_full", 0)


@pytest.mark.parametrize("answers", [[], [said("plan")], [said(), said("", call(n=1))]], ids=["plan", "action", "tool"])
async def test_a_caller_that_leaves_ends_the_call_in_flight_and_the_run_says_so(
    answers: list[bytes], nursery: trio.Nursery
) -> None:
    model, tools = ScriptedModel([*answers]), ScriptedTools(delays={1: 1000})
    ended_events: list[list[str]] = []

    async def carry_out() -> None:

        sink = MemorySink()
        try:
            async with AgentRun(make_head(), model, tools, sink, grace=Grace(), runtime_s=60) as running:
                await running.carry_out()
        finally:
            ended_events.append([sink.events[-1]["type"], sink.events[-1]["error"]])

    with trio.CancelScope() as leaving:

        async def leave() -> None:
            await trio.testing.wait_all_tasks_blocked()
            leaving.cancel()

        nursery.start_soon(leave)
        await carry_out()
    assert ended_events == [["run_failed", "cancelled"]]
    assert tools.running == 0


@dataclass(eq=False)
class Disk(MemorySink):
    """Keeps events until it is full; `hangs`: the event of this number is never kept."""

    room: int = 1000
    hangs: int | None = None

    def __post_init__(self) -> None:
        super().__init__()

    async def append(self, fields: Mapping[str, Any]) -> None:
        if len(self.events) == self.hangs:
            await trio.sleep_forever()
        if len(self.events) >= self.room:
            raise StorageFull("An event of this run")
        await super().append(fields)


TWO_CALLS = said("", call(n=1), call(n=2))


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("room", range(5))
async def test_a_disk_that_is_full_anywhere_in_a_run_is_said_as_what_it_is(room: int, together: bool) -> None:
    disk, tools = Disk(room=room), ScriptedTools()
    head = make_head(parallel_tools=together)
    started = AgentRun(head, ScriptedModel([said(), TWO_CALLS]), tools, disk, grace=Grace(), runtime_s=60)
    with pytest.raises(StorageFull):
        async with started as running:
            await running.carry_out()
    assert (len(disk.events), tools.running) == (room, 0)


@pytest.mark.parametrize("together", [False, True])
async def test_a_disk_that_takes_the_end_again_has_the_reason_in_it(together: bool) -> None:
    class Moment(Disk):
        async def append(self, fields: Mapping[str, Any]) -> None:
            if fields["type"] == "tool":
                raise StorageFull("An event of this run")
            await super().append(fields)

    disk = Moment()
    head = make_head(parallel_tools=together)
    model = ScriptedModel([said(), TWO_CALLS])
    async with AgentRun(head, model, ScriptedTools(), disk, grace=Grace(), runtime_s=60) as running:
        ended = await running.carry_out()
    assert (ended.code, disk.events[-1]["code"], disk.events[-1]["steps"]) == ("storage_full", "storage_full", 2)


@pytest.mark.parametrize("hangs", [0, 3])
async def test_a_disk_that_does_not_answer_holds_up_nobody_for_ever(
    hangs: int, autojump_clock: trio.testing.MockClock
) -> None:
    """The first event and the last are shielded, and each shield has its end."""
    model = ScriptedModel([said(), said("done")])
    started = AgentRun(make_head(), model, ScriptedTools(), Disk(hangs=hangs), grace=Grace(), runtime_s=60)
    began = trio.current_time()
    with pytest.raises(StorageFull):
        async with started as running:
            await running.carry_out()
    assert trio.current_time() - began == pytest.approx(EDGE_EVENT_S * (1 if hangs == 0 else 2))
    assert len(model.asked) == (0 if hangs == 0 else 2)


async def test_tools_that_run_together_stop_when_the_io_budget_is_spent(
    autojump_clock: trio.testing.MockClock,
) -> None:
    tools = ScriptedTools(io_bytes=60, delays={1: 1, 2: 2, 3: 50})
    model = ScriptedModel([said(), said("", call(n=1), call(n=2), call(n=3))])
    ended, events = await run(make_head(max_total_tool_io_bytes=100, parallel_tools=True), model, tools)
    assert ended.error == TOOL_IO
    assert (trio.current_time(), tools.running) == (pytest.approx(2), 0)
    assert [event["arguments"]["n"] for event in events if event["type"] == "tool"] == [1, 2]


async def test_a_fault_of_ours_is_no_cancellation() -> None:
    sink = MemorySink()
    model = ScriptedModel([ZeroDivisionError()])
    with pytest.raises(ZeroDivisionError):
        async with AgentRun(make_head(), model, ScriptedTools(), sink, grace=Grace(), runtime_s=60) as running:
            await running.carry_out()
    assert sink.events[-1]["error"] == FAULT
