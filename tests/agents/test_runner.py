"""Runner: budgets bind while a call is in flight, and a run that has begun has its end, whoever leaves."""

import pytest
import trio
import trio.testing

from appliance.admission.grace import Grace
from appliance.agents.recorded import MemorySink
from appliance.agents.runner import AgentRun
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
