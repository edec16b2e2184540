"""Responses through chat: what the request becomes, what is refused by name, and the answer as OpenAI's SDK reads it."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.responses import Response

from appliance.protocol.language import parse_language_request
from appliance.protocol.responses import from_chat, to_chat
from tests.protocol.responses_samples import CREATED_S, REQUEST, answers, counting_ids

CALL_ITEM = {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": "{}", "id": "toolcall-1"}
OUTPUT_ITEM = {"type": "function_call_output", "call_id": "c1", "output": "sunny"}


def translate(**fields: Any) -> dict[str, Any]:
    body = {"input": "hello", **fields}
    return to_chat(parse_language_request("responses", body, b"").body)


def messages(*items: Any) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = translate(input=list(items))["messages"]
    return made


def answer(message: dict[str, Any], finish_reason: str | None = "stop", **fields: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": finish_reason}
    return {"model": "local-7b", "choices": [choice], **fields}


def respond(whole: dict[str, Any], body: dict[str, Any] | None = None) -> dict[str, Any]:
    return from_chat(whole, REQUEST if body is None else body, new_id=counting_ids(), created=CREATED_S)


def test_a_string_is_the_users_message_and_instructions_the_systems() -> None:
    assert translate(instructions="Be brief.")["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "hello"},
    ]


def test_options_get_chats_names_and_unknown_ones_go_on_as_they_came() -> None:
    chat = translate(
        model="m",
        max_output_tokens=7,
        temperature=0,
        top_p=0.5,
        user="u",
        min_p=0.1,
        reasoning={"effort": "low", "summary": "auto"},
        text={"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": True}},
        store=True,
        metadata={"a": "b"},
        include=["reasoning.encrypted_content"],
        truncation="disabled",
        parallel_tool_calls=True,
        seed=None,
    )
    del chat["messages"]
    assert chat == {
        "model": "m",
        "max_tokens": 7,
        "temperature": 0,
        "top_p": 0.5,
        "user": "u",
        "min_p": 0.1,
        "reasoning_effort": "low",
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "n", "schema": {"type": "object"}, "strict": True},
        },
    }


def test_a_streamed_request_asks_for_its_usage() -> None:
    assert translate(stream=True)["stream_options"] == {"include_usage": True}
    assert "stream_options" not in translate(stream=False)
    assert translate(text={"format": {"type": "json_object"}, "verbosity": "low"})["verbosity"] == "low"
    assert translate(text={"format": {"type": "json_object"}})["response_format"] == {"type": "json_object"}
    assert "response_format" not in translate(text={"format": {"type": "text"}})


def test_tools_are_nested_as_chat_has_them() -> None:
    tool = {"type": "function", "name": "f", "description": "d", "parameters": {"type": "object"}, "strict": None}
    chat = translate(tools=[tool], tool_choice={"type": "function", "name": "f"}, parallel_tool_calls=False)
    function = {"name": "f", "description": "d", "parameters": {"type": "object"}}
    assert chat["tools"] == [{"type": "function", "function": function}]
    assert chat["tool_choice"] == {"type": "function", "function": {"name": "f"}}
    assert chat["parallel_tool_calls"] is False
    assert translate(tools=[tool], tool_choice="required")["tool_choice"] == "required"
    assert translate(tools=[tool], tool_choice="auto")["tool_choice"] == "auto"
    assert "tool_choice" not in translate(tools=[tool], tool_choice=None)
    assert "tools" not in translate(tools=None)


def test_a_choice_of_no_tools_says_nothing_and_one_that_needs_them_is_left_to_the_backend() -> None:
    assert "tool_choice" not in translate(tools=[], tool_choice="auto")
    assert translate(tool_choice="required")["tool_choice"] == "required"


def test_what_the_model_said_in_one_turn_is_one_assistant_message() -> None:
    made = messages(
        {"role": "user", "content": "weather?"},
        {"type": "reasoning", "id": "msg-1", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Let me see."}]},
        CALL_ITEM,
        {**CALL_ITEM, "call_id": "c2"},
        OUTPUT_ITEM,
        {**OUTPUT_ITEM, "call_id": "c2"},
        {"role": "assistant", "content": "Sunny."},
    )
    function = {"name": "weather", "arguments": "{}"}
    assert made == [
        {"role": "user", "content": "weather?"},
        {
            "role": "assistant",
            "content": "Let me see.",
            "reasoning_content": "hm",
            "tool_calls": [
                {"id": "c1", "type": "function", "function": function},
                {"id": "c2", "type": "function", "function": function},
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
        {"role": "tool", "tool_call_id": "c2", "content": "sunny"},
        {"role": "assistant", "content": "Sunny."},
    ]


def test_turns_that_were_two_stay_two() -> None:
    made = messages({"role": "assistant", "content": "a"}, {"role": "assistant", "content": "b"})
    assert [message["content"] for message in made] == ["a", "b"]
    made = messages(CALL_ITEM, {"role": "assistant", "content": "b"})
    assert (made[0]["content"], len(made[0]["tool_calls"]), len(made)) == ("b", 1, 1)


def test_a_call_after_the_users_message_is_the_models() -> None:
    assert [message["role"] for message in messages({"role": "user", "content": "u"}, CALL_ITEM)] == [
        "user",
        "assistant",
    ]


def test_reasoning_between_calls_is_kept_and_reasoning_without_text_is_dropped() -> None:
    thought = {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]}
    sealed = {"type": "reasoning", "summary": [], "content": [{"type": "sealed"}], "encrypted_content": "x"}
    assert messages(thought, CALL_ITEM, thought, {**CALL_ITEM, "call_id": "c2"})[0]["reasoning_content"] == "hmhm"
    assert messages(sealed, {"role": "assistant", "content": "a"}) == [{"role": "assistant", "content": "a"}]


def test_reasoning_that_led_to_nothing_does_not_reach_a_later_turn() -> None:
    thought = {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]}
    later = {"role": "assistant", "content": "a"}
    assert messages(thought, {"role": "user", "content": "u"}, later)[-1] == later
    assert messages(CALL_ITEM, thought, OUTPUT_ITEM, later)[-1] == later


def test_parts_get_chats_names_and_a_lone_text_is_a_string() -> None:
    image = {"type": "input_image", "image_url": "data:image/png;base64,AA==", "detail": "low"}
    file = {"type": "input_file", "file_data": "data:,x", "filename": "x.txt"}
    text = {"type": "input_text", "text": "see"}
    (made,) = messages({"role": "user", "content": [text, image, file]})
    assert made["content"] == [
        {"type": "text", "text": "see"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA==", "detail": "low"}},
        {"type": "file", "file": {"file_data": "data:,x", "filename": "x.txt"}},
    ]
    assert messages({"role": "developer", "content": [text]}) == [{"role": "system", "content": "see"}]
    assert messages({"role": "user", "content": []}) == [{"role": "user", "content": ""}]
    audio = {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}}
    assert messages({"role": "user", "content": [audio]})[0]["content"] == [audio]
    bare = [{"type": "input_image", "image_url": "data:,"}, {"type": "input_file", "file_data": "data:,"}]
    assert messages({"role": "user", "content": bare})[0]["content"] == [
        {"type": "image_url", "image_url": {"url": "data:,"}},
        {"type": "file", "file": {"file_data": "data:,"}},
    ]
    assert messages({**OUTPUT_ITEM, "output": [text]})[0]["content"] == "see"
    said = [{"type": "output_text", "text": "a"}, {"type": "refusal", "refusal": "b"}]
    assert messages({"role": "assistant", "content": said})[0]["content"] == "ab"


@given(answers)
def test_any_answer_is_a_response_that_openais_sdk_knows(whole: dict[str, Any]) -> None:
    response = respond(whole)
    known = Response.model_validate(response)
    assert known.output_text == (whole["choices"][0]["message"]["content"] or "")
    assert known.created_at == CREATED_S
    assert response["error"] is None
    assert (known.status == "incomplete") == (known.incomplete_details is not None)


@given(answers, st.text(max_size=5).filter(bool))
def test_an_answer_can_be_sent_back_as_the_input_of_the_next_turn(whole: dict[str, Any], text: str) -> None:
    """And what it becomes is a chat request that the chat route takes."""
    output = respond(whole)["output"]
    results = [
        {"type": "function_call_output", "call_id": item["call_id"], "output": "1"}
        for item in output
        if item["type"] == "function_call"
    ]
    chat = translate(input=[*output, *results, {"role": "user", "content": text}], tools=REQUEST["tools"])
    parse_language_request("chat", chat, b"")
    message = whole["choices"][0]["message"]
    turn = chat["messages"][0]
    if output[-1]["type"] == "reasoning":  # it led to nothing
        assert turn == {"role": "user", "content": text}
        return
    assert turn.get("reasoning_content") == message.get("reasoning_content")
    assert turn.get("tool_calls") == message.get("tool_calls")
    assert (turn["content"] or "") == (message["content"] or "") + message.get("refusal", "")


def test_the_response_repeats_what_was_asked_and_says_that_it_was_not_stored() -> None:
    response = respond(answer({"content": "hi"}))
    assert response["id"] == "resp-" + "0" * 24
    assert {name: response[name] for name in ("model", "instructions", "temperature", "max_output_tokens")} == {
        "model": "local-7b",
        "instructions": "Be brief.",
        "temperature": 0.5,
        "max_output_tokens": 100,
    }
    assert (response["metadata"], response["reasoning"]["effort"]) == ({"job": "7"}, "low")
    assert (response["store"], response["background"], response["previous_response_id"]) == (False, False, None)
    assert Response.model_validate(response).tools[0].type == "function"


def test_what_was_not_asked_is_repeated_as_openais_default_and_what_was_as_it_came() -> None:
    bare = respond(answer({"content": "hi"}), {"input": "x"})
    wanted = {"metadata": {}, "tools": [], "tool_choice": "auto", "parallel_tool_calls": True}
    wanted["text"] = {"format": {"type": "text"}}
    wanted["reasoning"] = {"effort": None, "summary": None}
    assert {name: bare[name] for name in wanted} == wanted
    asked = {
        "text": {"format": {"type": "json_object"}, "verbosity": "low"},
        "tool_choice": {"type": "function", "name": "weather"},
        "parallel_tool_calls": False,
    }
    response = respond(answer({"content": "hi"}), {**REQUEST, **asked})
    assert {name: response[name] for name in asked} == asked
    assert Response.model_validate(response)


def test_usage_is_counted_in_the_words_of_responses() -> None:
    usage = {
        "prompt_tokens": 3,
        "completion_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 1},
        "completion_tokens_details": None,
    }
    assert respond(answer({"content": "hi"}, usage=usage))["usage"] == {
        "input_tokens": 3,
        "input_tokens_details": {"cached_tokens": 1, "cache_write_tokens": 0},
        "output_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 8,
    }
    assert respond(answer({"content": "hi"}))["usage"] is None
    odd = respond(answer({"content": "hi"}, usage={"prompt_tokens": True, "total_tokens": 9}))["usage"]
    assert (odd["input_tokens"], odd["total_tokens"]) == (0, 9)


@pytest.mark.parametrize(
    ("finish_reason", "status", "reason"),
    [
        ("stop", "completed", None),
        ("tool_calls", "completed", None),
        (None, "completed", None),
        ("eos", "completed", None),
        ("length", "incomplete", "max_output_tokens"),
        ("content_filter", "incomplete", "content_filter"),
    ],
)
def test_the_status_says_whether_the_answer_is_whole(
    finish_reason: str | None, status: str, reason: str | None
) -> None:
    response = respond(answer({"content": "hi"}, finish_reason))
    assert (response["status"], response["output"][0]["status"]) == (status, status)
    assert (response["incomplete_details"] or {}).get("reason") == reason


@pytest.mark.parametrize("whole", [{}, {"choices": []}, answer({"content": None}), {"choices": [{"message": "x"}]}])
def test_an_answer_that_says_nothing_is_an_empty_message(whole: dict[str, Any]) -> None:
    response = respond(whole)
    assert Response.model_validate(response).output_text == ""
    assert [item["type"] for item in response["output"]] == ["message"]
