"""The fields of a responses request: what this gateway does not do is refused by name, and wrong fields with their place."""

from typing import Any

import pytest

from appliance.protocol.errors import InvalidRequest
from appliance.protocol.language import parse_language_request
from appliance.protocol.responses import to_chat

CALL_ITEM = {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": "{}", "id": "toolcall-1"}
OUTPUT_ITEM = {"type": "function_call_output", "call_id": "c1", "output": "sunny"}


def refusal(**fields: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        to_chat(parse_language_request("responses", {"input": "hello", **fields}, b"").body)
    return caught.value


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"previous_response_id": "resp-1"}, "previous_response_id"),
        ({"conversation": {"id": "c"}}, "conversation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"background": True}, "background"),
        ({"context_management": [{"type": "compaction"}]}, "context_management"),
        ({"moderation": {"model": "m"}}, "moderation"),
        ({"truncation": "auto"}, "truncation"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "file_search", "vector_store_ids": []}]}, "tools[0].type"),
        ({"tools": [{"type": "computer_use_preview"}]}, "tools[0].type"),
        ({"tools": [{"type": "custom", "name": "c"}]}, "tools[0].type"),
        ({"tools": [{"type": "mcp", "server_url": "http://x"}]}, "tools[0].type"),
        ({"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": []}}, "tool_choice.type"),
        ({"input": [{"type": "item_reference", "id": "msg-1"}]}, "input[0].type"),
        ({"input": [{"type": "web_search_call", "id": "w"}]}, "input[0].type"),
        ({"input": [{"role": "user", "content": [{"type": "input_video"}]}]}, "input[0].content[0].type"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}]},
            "input[0].content[0].file_id",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_file", "file_url": "http://x"}]}]},
            "input[0].content[0].file_url",
        ),
    ],
)
def test_what_this_gateway_does_not_do_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    error = refusal(**fields)
    assert error.param == param
    assert error.code in ("unsupported_parameter", "unsupported_value")
    assert param in error.message


def test_an_input_that_is_neither_is_refused_with_what_it_may_be() -> None:
    assert "expected a string or an array of input items" in refusal(input=5).message


def test_a_previous_response_is_refused_with_the_way_out() -> None:
    assert "send the whole of it in 'input'" in refusal(previous_response_id="resp-1").message


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": {"role": "user"}}, "input"),
        ({"input": ["hello"]}, "input[0]"),
        ({"input": [{"type": 1}]}, "input[0].type"),
        ({"input": [{"type": ["message"]}]}, "input[0].type"),
        ({"input": [{"type": "message", "content": "x"}]}, "input[0].role"),
        ({"input": [{"role": "user", "content": ["x"]}]}, "input[0].content[0]"),
        ({"input": [{"role": "user", "content": [{"type": []}]}]}, "input[0].content[0].type"),
        ({"tools": ["f"]}, "tools[0]"),
        ({"tools": [{"type": []}]}, "tools[0].type"),
        ({"tools": [{"type": "function", "name": 5}]}, "tools[0].name"),
        ({"tools": [{"type": "function", "name": "f", "parameters": "{}"}]}, "tools[0].parameters"),
        ({"text": {"format": {"type": "text", "strict": 5}}}, "text.format.strict"),
        ({"tool_choice": 5}, "tool_choice"),
        ({"tool_choice": {"type": []}}, "tool_choice.type"),
        ({"tool_choice": {"type": "function", "name": ""}}, "tool_choice.name"),
        ({"text": "json"}, "text"),
        ({"text": {"format": "json"}}, "text.format"),
        ({"text": {"format": {"type": "json_schema", "name": "", "schema": {}}}}, "text.format.name"),
        ({"text": {"format": {"type": "json_schema", "name": "n", "schema": 5}}}, "text.format.schema"),
        ({"reasoning": {"effort": 5}}, "reasoning.effort"),
        ({"metadata": []}, "metadata"),
        ({"input": [{"content": "x"}]}, "input[0].role"),
        ({"input": [{"role": "tool", "content": "x"}]}, "input[0].role"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"input": [{"role": "user", "content": [{"text": "x"}]}]}, "input[0].content[0].type"),
        ({"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, "input[0].content[0].text"),
        ({"input": [{"role": "user", "content": [{"type": "input_text", "text": 1}]}]}, "input[0].content[0].text"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0].image_url"),
        ({"input": [{**CALL_ITEM, "call_id": None}]}, "input[0].call_id"),
        ({"input": [{**CALL_ITEM, "name": ""}]}, "input[0].name"),
        ({"input": [{**CALL_ITEM, "arguments": {}}]}, "input[0].arguments"),
        ({"input": [{**OUTPUT_ITEM, "output": 5}]}, "input[0].output"),
        ({"input": [{**OUTPUT_ITEM, "call_id": ""}]}, "input[0].call_id"),
        ({"input": [{"type": "reasoning", "content": "hm"}]}, "input[0].content"),
        ({"instructions": 5}, "instructions"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"temperature": 3}, "temperature"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools[0].name"),
        ({"tool_choice": "maybe"}, "tool_choice"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"text": {"format": {"type": "json_schema", "name": "n"}}}, "text.format.schema"),
        ({"reasoning": "high"}, "reasoning"),
        ({"metadata": {"a": 1}}, "metadata.a"),
        ({"stream_options": {}}, "stream_options"),
        ({"background": 1.5}, "background"),
    ],
)
def test_a_field_that_is_wrong_is_refused_with_its_place(fields: dict[str, Any], param: str) -> None:
    assert refusal(**fields).param == param
