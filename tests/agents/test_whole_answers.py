"""Runs whose recorded answers are whole ones: of older versions, whole or put together, and calls that fell back."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from appliance.admission.grace import Grace
from appliance.agents.reading import read_transcript
from appliance.agents.recorded import ForkedModel, ForkedTools, MemorySink
from appliance.agents.runner import AgentRun, Model
from appliance.agents.step import STREAMED, Answered, CallModel
from appliance.agents.transcript import ForkedFrom, Head, Transcript
from appliance.agents.verify import Verdict, verify_run
from tests.agents.support import ScriptedModel, ScriptedTools, call, make_head, run, said

# Three runs of the gateway as it was then: one with two tools, a fork of it onto another model, one that failed.
RUNS: list[list[dict[str, Any]]] = json.loads((Path(__file__).parent / "whole_answers.json").read_text())

# The same of the version after it: models were asked for streams, and the completion put together was recorded.
PUT_TOGETHER: list[list[dict[str, Any]]] = json.loads((Path(__file__).parent / "put_together_answers.json").read_text())


async def verify(events: Any) -> Verdict:
    return await verify_run(json.loads(json.dumps(events)), None, Grace())


def streams(event: Any) -> bool:
    return "stream" in json.loads(event["request"])


def streaming_head(**spec: Any) -> Head:
    head = make_head(**spec)
    return replace(head, routed=replace(head.routed, parameters={**head.routed.parameters, **STREAMED}))


class Whole(Model):
    """Answers as another does, but to the whole form of every call that offers tools."""

    def __init__(self, model: ScriptedModel) -> None:
        self._model = model

    async def answer(self, call: CallModel) -> Answered:
        answered = await self._model.answer(call)
        return replace(answered, request=call.whole().request) if "tools" in call.body else answered


async def fork(transcript: Transcript, at: int, model: Model) -> list[Any]:
    head = replace(
        streaming_head(),
        run_id="run-" + "2" * 24,
        messages=transcript.head.messages,
        tools=transcript.head.tools,
        forked_from=ForkedFrom(transcript.head.run_id, at, transcript.head.routes()),
    )
    sink = MemorySink()
    tools = ForkedTools(transcript, at, ScriptedTools(), frozenset({"noop"}))
    async with AgentRun(head, ForkedModel(transcript, at, model), tools, sink, grace=Grace(), runtime_s=60) as forked:
        await forked.carry_out()
    return sink.events


@pytest.mark.parametrize("number", range(len(RUNS)))
async def test_a_run_that_was_recorded_before_agents_streamed_verifies(number: int) -> None:
    assert not any(streams(event) for event in RUNS[number] if "request" in event)
    verdict = await verify(RUNS[number])
    assert (verdict.identical, verdict.divergence) == (True, None)


@pytest.mark.parametrize("number", range(len(PUT_TOGETHER)))
async def test_a_run_that_was_recorded_with_its_streams_put_together_verifies_and_forks(number: int) -> None:
    events = PUT_TOGETHER[number]
    assert all(streams(event) for event in events if "request" in event)
    verdict = await verify(events)
    assert (verdict.identical, verdict.divergence) == (True, None)
    transcript = read_transcript(events)
    for at in range(len(transcript.steps) + 1):
        forked = await fork(transcript, at, ScriptedModel([said("live")] * 4))
        assert [event.get("response") for event in forked[1 : 1 + at]] == [
            event.get("response") for event in events[1 : 1 + at]
        ]
        assert (await verify(forked)).identical


@pytest.mark.parametrize("number", range(len(RUNS)))
async def test_its_fork_keeps_what_was_sent_then_and_streams_from_there_on(number: int) -> None:
    transcript = read_transcript(RUNS[number])
    for at in range(len(transcript.steps) + 1):
        events = await fork(transcript, at, ScriptedModel([said("live")] * 4))
        asked = [event for event in events if "request" in event]
        assert all(streams(event) == (event["step"] >= at) for event in asked)
        assert (await verify(events)).identical


async def test_a_run_whose_calls_fell_back_verifies_and_forks() -> None:
    answers = [said("plan"), said("", call(n=1)), said("plan 2"), said("done")]
    _, events = await run(streaming_head(), Whole(ScriptedModel(list(answers))))
    assert [streams(event) for event in events if "request" in event] == [True, False, True, False]
    assert (await verify(events)).identical
    transcript = read_transcript(json.loads(json.dumps(events)))
    for at in range(len(transcript.steps) + 1):
        forked = await fork(transcript, at, ScriptedModel([said("live")] * 4))
        assert [
            event["request"]
            for event in forked
            if event["step"] is not None and event["step"] < at and "request" in event
        ] == [step.request.decode() for step in transcript.steps[:at] if hasattr(step, "request")]
        assert (await verify(forked)).identical


async def test_a_whole_request_that_asks_for_something_else_is_still_a_divergence() -> None:
    _, events = await run(streaming_head(), Whole(ScriptedModel([said("plan"), said("done")])))
    changed = json.loads(json.dumps(events))
    changed[2]["request"] = changed[2]["request"].replace("hello", "hallo")
    verdict = await verify(changed)
    assert verdict.divergence is not None
    assert verdict.divergence["what"] == "request"
