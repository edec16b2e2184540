"""Step: every transition of a run, as a table; no clock, no nursery."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.agents.answers import read_calls, read_completion
from appliance.agents.step import (
    INVALID_CALL,
    MAX_RESULT_CHARS,
    TOOL_CALLS,
    TOOL_IO,
    TURN_LIMIT,
    CallModel,
    Finish,
    RunTools,
    decide_next,
)
from appliance.agents.transcript import Requested
from tests.agents.support import FUNCTION, action, call, make_head, plan, ran, said

ONE = Requested("toolcall-" + "a" * 24, "noop", {"n": 1})
TWO = Requested("toolcall-" + "b" * 24, "noop", {"n": 2})


def test_a_run_begins_with_a_plan_that_offers_no_tools() -> None:
    first = decide_next(make_head(), ())
    assert isinstance(first, CallModel)
    assert (first.kind, first.turn, first.step) == ("plan", 0, 0)
    assert "tools" not in first.body
    assert first.body["model"] == "tiny"
    assert first.body["temperature"] == 0.5
    assert [message["role"] for message in first.body["messages"]] == ["system", "user"]
    assert "noop" in first.body["messages"][0]["content"]


def test_after_the_plan_the_model_acts_on_it_with_its_tools() -> None:
    act = decide_next(make_head(), (plan(0, 0, "look first"),))
    assert isinstance(act, CallModel)
    assert (act.kind, act.turn, act.step) == ("assistant", 0, 1)
    assert act.body["tools"] == [FUNCTION]
    assert "look first" in act.body["messages"][0]["content"]


def test_an_answer_without_calls_is_the_end() -> None:
    end = decide_next(make_head(), (plan(0, 0), action(0, 1, "42")))
    assert isinstance(end, Finish)
    assert (end.ended.ok, end.ended.output_text) == (True, "42")


def test_a_model_that_answers_nothing_ends_the_run_with_nothing() -> None:
    end = decide_next(make_head(), (plan(0, 0, ""), action(0, 1, response=b'{"choices":[]}')))
    assert isinstance(end, Finish)
    assert (end.ended.ok, end.ended.output_text) == (True, "")


def test_calls_are_run_in_their_order_and_only_what_is_left_of_them() -> None:
    head = make_head()
    answer = action(0, 1, "", response=said("", call(n=1), call(n=2)))
    first = decide_next(head, (plan(0, 0), answer))
    assert isinstance(first, RunTools)
    assert [one.arguments for one in first.calls] == [{"n": 1}, {"n": 2}]
    assert first.step == 2
    kept = action(0, 1, "", *first.calls)
    rest = decide_next(head, (plan(0, 0), kept, ran(0, 2, first.calls[0])))
    assert rest == RunTools(0, 3, first.calls[1:])


def test_after_the_last_call_the_next_turn_plans_with_the_results_in_sight() -> None:
    steps = (plan(0, 0), action(0, 1, "hm", ONE), ran(0, 2, ONE, found="x"))
    again = decide_next(make_head(), steps)
    assert isinstance(again, CallModel)
    assert (again.kind, again.turn, again.step) == ("plan", 1, 3)
    _, user, assistant, tool = again.body["messages"]
    assert user["role"] == "user"
    assert assistant["tool_calls"][0]["id"] == tool["tool_call_id"] == ONE.id
    assert json.loads(tool["content"]) == {"ok": True, "found": "x"}


@pytest.mark.parametrize(
    ("spec", "steps", "error"),
    [
        ({"max_turns": 1}, (plan(0, 0), action(0, 1, "", ONE), ran(0, 2, ONE)), TURN_LIMIT),
        ({"max_total_tool_io_bytes": 9}, (plan(0, 0), action(0, 1, "", ONE, TWO), ran(0, 2, ONE, 10)), TOOL_IO),
        ({"max_tool_calls": 1}, (plan(0, 0), action(0, 1, "", response=said("", call(), call()))), TOOL_CALLS),
        ({}, (plan(0, 0), action(0, 1, response=said("", {"name": "noop", "arguments": "{no"}))), INVALID_CALL),
        ({}, (plan(0, 0), action(0, 1, response=said("", {"name": "noop", "arguments": "[]"}))), INVALID_CALL),
        ({}, (plan(0, 0), action(0, 1, response=said("", {"name": "noop", "arguments": "NaN"}))), INVALID_CALL),
        ({}, (plan(0, 0), action(0, 1, response=said("", {"name": "", "arguments": "{}"}))), INVALID_CALL),
        ({}, (plan(0, 0), action(0, 1, response=said("", {"arguments": "{}"}))), INVALID_CALL),
        (
            {},
            (plan(0, 0), action(0, 1, response=said("", {"name": "noop", "arguments": f'"{"x" * 5_000_000}"'}))),
            INVALID_CALL,
        ),
    ],
    ids=["turns", "io", "calls", "no json", "a list", "NaN", "no name", "name missing", "5 MB"],
)
def test_what_ends_a_run(spec: dict[str, Any], steps: Any, error: str) -> None:
    end = decide_next(make_head(**spec), steps)
    assert isinstance(end, Finish)
    assert end.ended.error == error


def test_arguments_may_be_an_object_or_nothing() -> None:
    for arguments, expected in ((({"a": 1}), {"a": 1}), ("", {}), (None, {}), ("  ", {})):
        [one] = read_calls(read_completion(said("", {"name": "noop", "arguments": arguments})), "0")
        assert one.arguments == expected


def test_calls_have_ids_of_ours_so_that_doubled_ones_are_told_apart() -> None:
    response = json.loads(said("", call(n=1), call(n=2)))
    for entry in response["choices"][0]["message"]["tool_calls"]:
        entry["id"] = "same"
    one, two = read_calls(response, "0")
    assert one.id != two.id
    assert read_calls(response, "0") == (one, two)
    assert read_calls(response, "1")[0].id != one.id


def test_one_system_message_stands_first_and_holds_all_instructions() -> None:
    head = make_head(
        instructions="Be kind.",
        messages=[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}],
    )
    first = decide_next(head, ())
    assert isinstance(first, CallModel)
    roles = [message["role"] for message in first.body["messages"]]
    assert roles == ["system", "user"]
    text = first.body["messages"][0]["content"]
    assert text.index("Be kind.") < text.index("Be brief.") < text.index("planning")


def test_a_long_result_is_cut_for_the_model() -> None:
    steps = (plan(0, 0), action(0, 1, "", ONE), ran(0, 2, ONE, content="x" * 50_000))
    again = decide_next(make_head(), steps)
    assert isinstance(again, CallModel)
    assert len(again.body["messages"][-1]["content"]) < MAX_RESULT_CHARS + 100


@given(st.binary(max_size=200) | st.from_regex(rb'\{"choices":\[\{"message":.{0,60}', fullmatch=True))
def test_whatever_a_model_server_answers_the_run_goes_on_or_ends(response: bytes) -> None:
    following = decide_next(make_head(), (plan(0, 0), action(0, 1, response=response)))
    assert isinstance(following, Finish | RunTools)


def test_the_same_transcript_has_the_same_next_request_byte_for_byte() -> None:
    steps = (plan(0, 0), action(0, 1, "é", ONE), ran(0, 2, ONE, text="☃"))
    one, two = decide_next(make_head(), steps), decide_next(make_head(), steps)
    assert isinstance(one, CallModel)
    assert isinstance(two, CallModel)
    assert one.request == two.request
    assert "☃".encode() in one.request
