"""Verify and fork: whatever a run did, doing it again from its record comes out the same, and changes nothing."""

import copy
import json
from collections.abc import Mapping
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.admission.grace import Grace
from appliance.agents.reading import read_transcript
from appliance.agents.recorded import ForkedModel, ForkedTools, MemorySink
from appliance.agents.runner import AgentRun
from appliance.agents.transcript import ForkedFrom, Head, Routed, Transcript
from appliance.agents.verify import Verdict, verify_run
from appliance.protocol.agents import without_volatile
from appliance.protocol.errors import UpstreamFailed
from tests.agents.support import ScriptedModel, ScriptedTools, call, make_head, run, said

Events = list[Mapping[str, Any]]


def stored(events: Events) -> Events:
    """As they come back from the disk."""
    return json.loads(json.dumps(events, sort_keys=True))


async def verify(events: Events) -> Verdict:
    return await verify_run(stored(events), None, Grace())


async def short_run(**spec: Any) -> Events:
    model = ScriptedModel([said("plan"), said("é", call(n=1), call(n=2)), said("plan 2"), said("done")])
    _, events = await run(make_head(**spec), model)
    return events


async def test_a_run_done_again_is_identical() -> None:
    verdict = await verify(await short_run())
    assert (verdict.identical, verdict.steps, verdict.divergence) == (True, 6, None)


@pytest.mark.parametrize(
    ("event", "name", "value", "what"),
    [
        (1, "request", "{}", "request"),
        (2, "text", "other", "text"),
        (3, "arguments", {"n": 7}, "call"),
        (3, "tool", "shell", "call"),
        (-1, "output_text", "42", "output_text"),
        (0, "messages", [{"role": "user", "content": "hi"}], "request"),
    ],
)
async def test_the_first_step_that_does_not_follow_is_named(event: int, name: str, value: Any, what: str) -> None:
    events = copy.deepcopy(stored(await short_run()))
    changed: Any = events[event]
    changed[name] = value
    verdict = await verify(events)
    assert verdict.identical is False
    assert verdict.divergence is not None
    assert verdict.divergence["what"] == what
    assert {"recorded", "now"} <= verdict.divergence.keys()


@pytest.mark.parametrize("together", [False, True])
async def test_a_call_that_does_not_follow_is_named_also_where_calls_run_together(together: bool) -> None:
    events = copy.deepcopy(stored(await short_run(parallel_tools=together)))
    changed: Any = events[4]
    changed["arguments"] = {"n": 7}
    verdict = await verify(events)
    assert verdict.divergence is not None
    assert (verdict.divergence["event"], verdict.divergence["what"]) == (4, "call")


async def test_a_run_that_still_runs_is_compared_as_far_as_it_has_come() -> None:
    events = await short_run()
    for length in range(1, len(events)):
        assert (await verify(events[:length])).body() == {"identical": True, "steps": length - 1}


async def test_a_fork_of_answers_that_lead_elsewhere_now_ends_and_says_so() -> None:
    """A gateway of another version may have read the same answer in another way."""
    events = copy.deepcopy(stored(await short_run()))
    changed: Any = events[3]
    changed["arguments"] = {"n": 7}
    live = ScriptedTools()
    forked = await carry_out(*fork(read_transcript(events), 4, ScriptedModel([]), live, "b"))
    assert (forked[-1]["code"], forked[-1]["steps"], live.asked) == ("diverged", 2, [])


async def test_a_result_that_was_changed_shows_in_the_next_request() -> None:
    events = copy.deepcopy(stored(await short_run()))
    changed: Any = events[3]
    changed["result"] = {"echo": "forged"}
    verdict = await verify(events)
    assert verdict.divergence is not None
    assert (verdict.divergence["event"], verdict.divergence["step"], verdict.divergence["what"]) == (5, 4, "request")


async def test_a_damaged_event_is_named_before_anything_is_done() -> None:
    events = stored(await short_run())
    verdict = await verify_run(events[:3], (3, "its bytes do not match its hash"), Grace())
    assert verdict.body()["first_divergence"] == {
        "event": 3,
        "what": "stored event",
        "reason": "its bytes do not match its hash",
    }


async def test_events_that_are_no_run_are_named() -> None:
    events = stored(await short_run())
    del events[2]
    verdict = await verify(events)
    assert verdict.divergence is not None
    assert verdict.divergence["event"] == 2


async def test_a_run_that_an_upstream_error_ended_is_identical() -> None:
    broken = UpstreamFailed("It broke.", upstream="mock")
    _, events = await run(make_head(), ScriptedModel([said(), said("", call()), broken]))
    assert (await verify(events)).identical


async def test_the_budget_of_seconds_is_not_spent_again() -> None:
    events = await short_run(max_runtime_sec=0.000001)
    assert events[-1]["type"] in {"run_failed", "run_completed"}
    assert (await verify(events)).identical


# Random runs. A script is a list of turns: a plan, then calls; the last turn answers, or the run is cut off in it.

arguments = st.dictionaries(st.sampled_from(["n", "text", "é"]), st.integers(0, 3) | st.text(max_size=5), max_size=2)
broken_calls = st.sampled_from([{"name": "noop", "arguments": "{no"}, {"name": "", "arguments": "{}"}])
calls = st.lists(arguments.map(lambda some: call(**some)) | broken_calls, max_size=3)
turns = st.lists(st.tuples(st.text(max_size=8), calls), max_size=4)
endings = st.sampled_from(["answer", "error", "cancel", "loop"])
specs = st.fixed_dictionaries(
    {},
    optional={
        "max_turns": st.integers(1, 4),
        "max_total_tool_io_bytes": st.integers(0, 6),
        "max_tool_calls": st.integers(1, 4),
        "parallel_tools": st.booleans(),
        "instructions": st.text(max_size=5),
    },
)


def script(turned: list[tuple[str, list[Mapping[str, Any]]]], ending: str) -> ScriptedModel:
    answers: list[Any] = []
    for thought, asked in turned:
        answers += [said(thought), said(thought, *(asked or [call()]))]
    if ending == "answer":
        answers += [said("so"), said("done")]
    if ending == "error":
        answers.append(UpstreamFailed("It broke.", upstream="mock"))
    if ending == "loop":
        answers += [said("again"), said("", call())] * 100
    return ScriptedModel(answers)


async def carry_out(head: Head, model: Any, tools: Any, cancel_after: float | None = None) -> Events:
    sink = MemorySink()
    with trio.move_on_after(cancel_after if cancel_after is not None else 1e6):
        async with AgentRun(head, model, tools, sink, grace=Grace(), runtime_s=100) as run:
            await run.carry_out()
    return stored(sink.events)


def fork(transcript: Transcript, at: int, model: Any, tools: Any, upstream_model: str) -> tuple[Head, Any, Any]:
    head = make_head()
    forked = Head(
        **{
            **{name: getattr(transcript.head, name) for name in Head.__slots__},
            "run_id": "run-" + "2" * 24,
            "routed": Routed("mock", upstream_model, "x", head.routed.parameters),
            "forked_from": ForkedFrom(transcript.head.run_id, at, transcript.head.routes()),
        }
    )
    return forked, ForkedModel(transcript, at, model), ForkedTools(transcript, at, tools, frozenset())


@settings(max_examples=120, deadline=None)
@given(turned=turns, ending=endings, spec=specs, cut=st.sampled_from([None, 0.5, 1.5, 4.0]))
def test_any_run_verifies_and_forks_at_every_step(
    turned: Any, ending: str, spec: dict[str, Any], cut: float | None
) -> None:
    async def scenario() -> None:
        tools = ScriptedTools(delays={0: 1, 1: 2})
        events = await carry_out(make_head(**spec), script(turned, ending), tools, cut)
        assert tools.running == 0
        assert (await verify(events)).identical
        transcript = read_transcript(events)
        for at in range(len(transcript.steps) + 1):
            live_tools = ScriptedTools()
            model = ScriptedModel([said("live plan"), said("live answer")] * 3)
            forked = await carry_out(*fork(transcript, at, model, live_tools, "another"))
            assert live_tools.asked == []  # what the run before did not do is not done
            assert without_volatile(forked[1 : 1 + at]) == without_volatile(events[1 : 1 + at])
            assert forked[-1]["type"] in {"run_completed", "run_failed"}
            assert (await verify(forked)).identical

    trio.run(scenario, clock=trio.testing.MockClock(autojump_threshold=0))


async def test_a_forked_fork_verifies_too() -> None:
    events = stored(await short_run())
    for at, name in ((4, "b"), (3, "c"), (5, "d")):
        model = ScriptedModel([said(f"plan {name}"), said("", call(n=2)), said("p"), said(f"done {name}")])
        events = await carry_out(*fork(read_transcript(events), at, model, ScriptedTools(), name))
        assert (await verify(events)).identical
        assert json.loads(events[-2]["request"])["model"] == name


async def test_a_fork_gives_recorded_results_to_the_same_calls_once_each() -> None:
    transcript = read_transcript(stored(await short_run()))
    model = ScriptedModel([said("", call(n=2), call(n=1), call(n=1)), said(), said("done")])
    events = await carry_out(*fork(transcript, 1, model, ScriptedTools(), "b"))
    results = [event["result"] for event in events if event["type"] == "tool"]
    assert results[:2] == [{"echo": {"n": 2}}, {"echo": {"n": 1}}]
    assert results[2]["error_type"] == "not_recorded"


async def test_a_fork_runs_harmless_tools_live() -> None:
    transcript = read_transcript(stored(await short_run()))
    live = ScriptedTools()
    model = ScriptedModel([said("", call(n=9)), said(), said("done")])
    head, forked_model, _ = fork(transcript, 1, model, live, "b")
    events = await carry_out(head, forked_model, ForkedTools(transcript, 1, live, frozenset({"noop"})))
    assert [one.arguments for one in live.asked] == [{"n": 9}]
    assert events[-1]["ok"]
