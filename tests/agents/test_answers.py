"""Answers: whatever a model says is read, or ends the run; and reads the same when it comes back from the disk."""

import json
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from appliance.admission.grace import Grace
from appliance.agents.answers import (
    MAX_ARGUMENT_CHARS,
    MAX_NAME_CHARS,
    InvalidToolCall,
    read_calls,
    read_completion,
    read_text,
)
from appliance.agents.step import INVALID_CALL, MAX_TOOL_CALLS, TOOL_CALLS
from appliance.agents.verify import verify_run
from appliance.protocol.canonical import canonical_json
from appliance.protocol.strictjson import MAX_NESTING
from tests.agents.support import ScriptedModel, call, make_head, run, said

DEEP = '{"a":' * MAX_NESTING + "{}" + "}" * MAX_NESTING


def answer(content: Any = "", *arguments: Any) -> bytes:
    calls = [{"function": {"name": "noop", "arguments": one}} for one in arguments]
    return json.dumps({"choices": [{"message": {"content": content, "tool_calls": calls}}]}).encode()


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, ""),
        (5, ""),
        ([{"text": 5}, {"text": None}, "x", {"text": "a"}, {"text": "b"}], "ab"),
        ([{"text": "\ud83d"}, {"text": "\ude00"}], "\U0001f600"),
        ("\ud83d", "\ud83d"),
    ],
)
def test_text_is_what_was_said_and_nothing_else(content: Any, text: str) -> None:
    assert read_text(read_completion(answer(content))) == text


@pytest.mark.parametrize("response", [b"", b"[" * 100_000, b"\xff\xfe", b'{"choices":5}', b'"choices"', b"[1]"])
def test_an_answer_that_is_none_says_and_calls_nothing(response: bytes) -> None:
    completion = read_completion(response)
    assert (read_text(completion), read_calls(completion, "0")) == ("", ())


@pytest.mark.parametrize(
    "arguments",
    [
        '{"n": 1e999}',
        '{"n": NaN}',
        {"n": float("nan")},
        {"n": float("inf")},
        DEEP,
        json.loads(DEEP),
        '{"a":' * 100_000,
        json.dumps({"text": "x" * MAX_ARGUMENT_CHARS}),
        {"text": "x" * MAX_ARGUMENT_CHARS},
        "5",
        [1],
        5,
        True,
    ],
    ids=range(13),
)
def test_arguments_that_no_record_could_hold_are_no_call(arguments: Any) -> None:
    with pytest.raises(InvalidToolCall):
        read_calls(read_completion(answer("", arguments)), "0")


@pytest.mark.parametrize("entry", [None, 5, {}, {"function": 5}, {"function": {"name": 5}}, {"function": {"name": ""}}])
def test_a_call_without_a_name_is_none(entry: Any) -> None:
    completion = {"choices": [{"message": {"tool_calls": [entry]}}]}
    with pytest.raises(InvalidToolCall):
        read_calls(completion, "0")


def test_a_name_without_end_is_none() -> None:
    with pytest.raises(InvalidToolCall):
        read_calls(read_completion(said("", {"name": "n" * (MAX_NAME_CHARS + 1), "arguments": "{}"})), "0")


@pytest.mark.parametrize("tool_calls", [{}, "x", 5])
def test_tool_calls_that_are_no_list_are_refused_unless_they_are_nothing(tool_calls: Any) -> None:
    completion = {"choices": [{"message": {"tool_calls": tool_calls}}]}
    if tool_calls:
        with pytest.raises(InvalidToolCall):
            read_calls(completion, "0")
    else:
        assert read_calls(completion, "0") == ()


async def test_more_calls_at_once_than_any_run_may_make_end_the_run() -> None:
    many = said("", *[call(n=1)] * (MAX_TOOL_CALLS + 1))
    ended, events = await run(make_head(), ScriptedModel([said(), many]))
    assert ended.error == TOOL_CALLS
    assert not [event for event in events if event["type"] == "tool"]


async def test_a_call_that_is_none_ends_the_run_with_the_words_of_the_contract() -> None:
    ended, _ = await run(make_head(), ScriptedModel([said(), answer("", '{"n": 1e999}')]))
    assert ended.error == INVALID_CALL == "invalid tool call from model"


halves_too = st.text(st.characters(exclude_categories=()) | st.sampled_from("\ud83d\ude00"), max_size=4)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | halves_too,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(halves_too, inner, max_size=3),
    max_leaves=8,
)
bytes_of_answers = st.binary(max_size=60).map(lambda raw: b'{"choices":[{"message":{"content":"' + raw + b'"}}]}')
answers = bytes_of_answers | st.builds(lambda c, a: answer(c, *a), json_values, st.lists(json_values, max_size=2))


@given(st.lists(answers, max_size=4))
def test_a_run_on_any_answers_can_be_stored_and_verifies(given_answers: list[bytes]) -> None:
    async def scenario() -> None:
        _, events = await run(make_head(), ScriptedModel([*given_answers, said("plan"), said("end"), said("end")]))
        stored = json.loads(canonical_json(events))
        verdict = await verify_run(stored, None, Grace())
        assert verdict.identical, verdict

    trio.run(scenario)
