"""Messages of a chat: what real clients send passes, and each wrong field is named with its place."""

from typing import Any

import pytest

from appliance.protocol.errors import InvalidRequest
from appliance.protocol.language import parse_language_request

CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "system", "content": "s"}, {"role": "developer", "content": "d"}, {"role": "user", "content": ""}],
        [{"role": "user", "content": [{"type": "text", "text": "t"}]}],
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,", "detail": "low"}}]}],
        [{"role": "user", "content": [{"type": "video_url", "video_url": {"url": "data:,"}}]}],
        [{"role": "assistant", "content": None, "tool_calls": [CALL]}],
        [{"role": "assistant", "tool_calls": [CALL]}, {"role": "tool", "tool_call_id": "call_1", "content": "1"}],
        [{"role": "assistant", "content": "", "refusal": None, "tool_calls": None}],
        [{"role": "assistant", "content": None, "reasoning_content": "hm"}],
        [{"role": "assistant", "content": None, "tool_calls": [{**CALL, "function": {"name": "f", "arguments": {}}}]}],
        [{"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}}],
        [{"role": "function", "name": "f", "content": None}],
        [{"role": "assistant", "content": None, "tool_calls": [{"id": "a", "function": {"name": "f"}}]}],
        [{"role": "user", "content": "x", "name": "ann", "cache_control": {"type": "ephemeral"}}],
    ],
)
def test_messages_as_real_clients_send_them_are_taken(messages: list[Any]) -> None:
    assert parse_language_request("chat", {"messages": messages}, b"").kind == "chat"


@pytest.mark.parametrize(
    ("message", "param", "code"),
    [
        ("hi", "messages[0]", "invalid_type"),
        ({"content": "x"}, "messages[0].role", "missing_required_parameter"),
        ({"role": 1, "content": "x"}, "messages[0].role", "invalid_type"),
        ({"role": "robot", "content": "x"}, "messages[0].role", "invalid_value"),
        ({"role": "user"}, "messages[0].content", "missing_required_parameter"),
        ({"role": "user", "content": None}, "messages[0].content", "missing_required_parameter"),
        ({"role": "user", "content": 5}, "messages[0].content", "invalid_type"),
        ({"role": "user", "content": {"type": "text"}}, "messages[0].content", "invalid_type"),
        ({"role": "user", "content": ["x"]}, "messages[0].content[0]", "invalid_type"),
        ({"role": "user", "content": [{"text": "x"}]}, "messages[0].content[0].type", "missing_required_parameter"),
        ({"role": "user", "content": [{"type": "text"}]}, "messages[0].content[0].text", "missing_required_parameter"),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": "x"}]},
            "messages[0].content[0].image_url",
            "invalid_type",
        ),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {}}]},
            "messages[0].content[0].image_url.url",
            "missing_required_parameter",
        ),
        (
            {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": 1}}]},
            "messages[0].content[0].input_audio.data",
            "invalid_type",
        ),
        ({"role": "assistant", "content": None}, "messages[0].content", "missing_required_parameter"),
        ({"role": "assistant", "content": None, "tool_calls": []}, "messages[0].content", "missing_required_parameter"),
        ({"role": "user", "content": None, "tool_calls": [CALL]}, "messages[0].content", "missing_required_parameter"),
        ({"role": "tool", "content": "x"}, "messages[0].tool_call_id", "missing_required_parameter"),
        ({"role": "tool", "tool_call_id": "", "content": "x"}, "messages[0].tool_call_id", "empty_string"),
        ({"role": "function", "content": "x"}, "messages[0].name", "missing_required_parameter"),
        ({"role": "assistant", "tool_calls": CALL}, "messages[0].tool_calls", "invalid_type"),
        ({"role": "assistant", "tool_calls": [{}]}, "messages[0].tool_calls[0].id", "missing_required_parameter"),
        (
            {"role": "assistant", "tool_calls": [{"id": "a", "type": "custom"}]},
            "messages[0].tool_calls[0].type",
            "invalid_value",
        ),
        (
            {"role": "assistant", "tool_calls": [{"id": "a"}]},
            "messages[0].tool_calls[0].function",
            "missing_required_parameter",
        ),
        (
            {"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": "f", "arguments": 1}}]},
            "messages[0].tool_calls[0].function.arguments",
            "invalid_type",
        ),
        ({"role": "user", "content": "x", "name": 1}, "messages[0].name", "invalid_type"),
        ({"role": "assistant", "content": [5], "tool_calls": [CALL]}, "messages[0].content[0]", "invalid_type"),
        ({"role": "user", "content": [{"type": 5}]}, "messages[0].content[0].type", "invalid_type"),
        (
            {"role": "user", "content": [{"type": "input_audio", "input_audio": "x"}]},
            "messages[0].content[0].input_audio",
            "invalid_type",
        ),
        ({"role": "assistant", "tool_calls": ["f"]}, "messages[0].tool_calls[0]", "invalid_type"),
        ({"role": "assistant", "tool_calls": [{"id": 5}]}, "messages[0].tool_calls[0].id", "invalid_type"),
        (
            {"role": "assistant", "tool_calls": [{"id": "a", "function": "f"}]},
            "messages[0].tool_calls[0].function",
            "invalid_type",
        ),
        (
            {"role": "assistant", "tool_calls": [{"id": "a", "function": {}}]},
            "messages[0].tool_calls[0].function.name",
            "missing_required_parameter",
        ),
    ],
)
def test_a_message_that_is_wrong_is_refused_with_its_place(message: Any, param: str, code: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_language_request("chat", {"messages": [message]}, b"")
    error = caught.value
    assert (error.param, error.code, error.status) == (param, code, 400)
