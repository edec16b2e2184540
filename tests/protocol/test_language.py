"""Requests to language models: what real clients send passes, and each wrong field is named."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.protocol.errors import InvalidRequest
from appliance.protocol.language import LanguageKind, LanguageRequest, parse_language_request, text_chars, with_body

HELLO = [{"role": "user", "content": "hello"}]
CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
MINIMAL: dict[LanguageKind, dict[str, Any]] = {
    "chat": {"messages": HELLO},
    "completions": {"prompt": "hello"},
    "responses": {"input": "hello"},
    "embeddings": {"input": "hello"},
    "rerank": {"query": "q", "documents": ["a", "b"]},
}


def parse(kind: LanguageKind, **fields: Any) -> LanguageRequest:
    body = {**MINIMAL[kind], **fields}
    return parse_language_request(kind, body, json.dumps(body).encode())


def refusal(kind: LanguageKind, **fields: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        parse(kind, **fields)
    return caught.value


def chat(*messages: Any) -> LanguageRequest:
    return parse("chat", messages=list(messages))


@pytest.mark.parametrize("kind", MINIMAL)
def test_the_smallest_request_of_each_kind_is_taken(kind: LanguageKind) -> None:
    request = parse(kind)
    assert (request.model, request.stream, request.include_usage, request.has_tools) == ("", False, False, False)


@pytest.mark.parametrize("kind", MINIMAL)
def test_fields_that_are_unknown_here_are_kept_and_nulls_are_as_good_as_absent(kind: LanguageKind) -> None:
    body = {
        **MINIMAL[kind],
        "min_p": 0.1,
        "top_k": 20,
        "chat_template_kwargs": {"enable_thinking": False},
        "model": None,
        "user": None,
        "temperature": None,
        "stream": None,
        "stream_options": None,
        "tools": None,
        "encoding_format": None,
        "top_n": None,
    }
    assert parse_language_request(kind, body, b"").body == body


def test_what_the_gateway_asks_of_a_request_is_read_from_it() -> None:
    request = parse(
        "chat", model="  auto ", stream=True, stream_options={"include_usage": True}, tools=[TOOL], tool_choice="auto"
    )
    assert (request.model, request.stream, request.include_usage, request.has_tools) == ("auto", True, True, True)
    assert not parse("chat", tools=[]).has_tools
    assert parse("chat", functions=[{"name": "f"}]).has_tools
    assert not parse("embeddings", tools=[TOOL]).has_tools


WRONG: list[tuple[LanguageKind, dict[str, Any], str, str]] = [
    ("chat", {"messages": None}, "messages", "missing_required_parameter"),
    ("chat", {"messages": []}, "messages", "empty_array"),
    ("chat", {"messages": {}}, "messages", "invalid_type"),
    ("chat", {"model": 1}, "model", "invalid_type"),
    ("chat", {"model": "a\r\nSet-Cookie: b"}, "model", "invalid_value"),
    ("chat", {"model": "m" * 257}, "model", "invalid_value"),
    ("chat", {"stream": "yes"}, "stream", "invalid_type"),
    ("chat", {"stream_options": {"include_usage": True}}, "stream_options", "invalid_value"),
    ("chat", {"stream": True, "stream_options": True}, "stream_options", "invalid_type"),
    ("chat", {"stream": True, "stream_options": {"include_usage": 1}}, "stream_options.include_usage", "invalid_type"),
    ("chat", {"temperature": 2.01}, "temperature", "decimal_above_max_value"),
    ("chat", {"temperature": -0.1}, "temperature", "decimal_below_min_value"),
    ("chat", {"temperature": "1"}, "temperature", "invalid_type"),
    ("chat", {"temperature": True}, "temperature", "invalid_type"),
    ("chat", {"top_p": 1.5}, "top_p", "decimal_above_max_value"),
    ("chat", {"n": 0}, "n", "integer_below_min_value"),
    ("chat", {"n": 129}, "n", "integer_above_max_value"),
    ("chat", {"n": 1.0}, "n", "invalid_type"),
    ("chat", {"n": True}, "n", "invalid_type"),
    ("chat", {"max_tokens": 0}, "max_tokens", "integer_below_min_value"),
    ("chat", {"max_tokens": -1}, "max_tokens", "integer_below_min_value"),
    ("chat", {"max_completion_tokens": 0}, "max_completion_tokens", "integer_below_min_value"),
    ("chat", {"stop": 5}, "stop", "invalid_type"),
    ("chat", {"stop": ["a", 5]}, "stop[1]", "invalid_type"),
    ("chat", {"stop": ["a"] * 17}, "stop", "array_above_max_length"),
    ("chat", {"presence_penalty": 3}, "presence_penalty", "decimal_above_max_value"),
    ("chat", {"frequency_penalty": -3}, "frequency_penalty", "decimal_below_min_value"),
    ("chat", {"seed": 1.5}, "seed", "invalid_type"),
    ("chat", {"tools": TOOL}, "tools", "invalid_type"),
    ("chat", {"tools": [{"type": "retrieval"}]}, "tools[0].type", "invalid_value"),
    ("chat", {"tools": [TOOL, {"type": "function"}]}, "tools[1].function", "missing_required_parameter"),
    ("chat", {"tools": [{"type": "function", "function": {"name": ""}}]}, "tools[0].function.name", "empty_string"),
    (
        "chat",
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": "{}"}}]},
        "tools[0].function.parameters",
        "invalid_type",
    ),
    ("chat", {"functions": [{}]}, "functions[0].name", "missing_required_parameter"),
    ("chat", {"tools": ["f"]}, "tools[0]", "invalid_type"),
    ("chat", {"tools": [{"type": "function", "function": "f"}]}, "tools[0].function", "invalid_type"),
    ("chat", {"tool_choice": {"type": 5}}, "tool_choice.type", "invalid_type"),
    ("chat", {"tool_choice": {"type": "function", "function": "f"}}, "tool_choice.function", "invalid_type"),
    (
        "chat",
        {"tool_choice": {"type": "function", "function": {"name": ""}}},
        "tool_choice.function.name",
        "empty_string",
    ),
    ("chat", {"function_call": 5}, "function_call", "invalid_type"),
    ("chat", {"function_call": {"name": ""}}, "function_call.name", "empty_string"),
    ("chat", {"tool_choice": "maybe"}, "tool_choice", "invalid_value"),
    ("chat", {"tool_choice": 1}, "tool_choice", "invalid_type"),
    ("chat", {"tool_choice": {"type": "function"}}, "tool_choice.function", "missing_required_parameter"),
    ("chat", {"function_call": "required"}, "function_call", "invalid_value"),
    ("chat", {"parallel_tool_calls": "no"}, "parallel_tool_calls", "invalid_type"),
    ("chat", {"response_format": "json"}, "response_format", "invalid_type"),
    ("chat", {"response_format": {}}, "response_format.type", "missing_required_parameter"),
    (
        "chat",
        {"response_format": {"type": "json_schema", "json_schema": "x"}},
        "response_format.json_schema",
        "invalid_type",
    ),
    ("chat", {"logprobs": 1}, "logprobs", "invalid_type"),
    ("chat", {"top_logprobs": 21}, "top_logprobs", "integer_above_max_value"),
    ("chat", {"user": 5}, "user", "invalid_type"),
    ("chat", {"logit_bias": [1]}, "logit_bias", "invalid_type"),
    ("chat", {"logit_bias": {"50256": 101}}, "logit_bias.50256", "decimal_above_max_value"),
    ("completions", {"prompt": None}, "prompt", "missing_required_parameter"),
    ("completions", {"prompt": 5}, "prompt", "invalid_type"),
    ("completions", {"prompt": []}, "prompt", "empty_array"),
    ("completions", {"prompt": ["a", 1]}, "prompt[1]", "invalid_type"),
    ("completions", {"prompt": [1, "a"]}, "prompt[1]", "invalid_type"),
    ("completions", {"prompt": [[1], []]}, "prompt[1]", "empty_array"),
    ("completions", {"prompt": [-1]}, "prompt[0]", "integer_below_min_value"),
    ("completions", {"max_tokens": -1}, "max_tokens", "integer_below_min_value"),
    ("completions", {"stream_options": {}}, "stream_options", "invalid_value"),
    ("embeddings", {"input": ""}, "input", "empty_string"),
    ("embeddings", {"input": []}, "input", "empty_array"),
    ("embeddings", {"input": ["a", ""]}, "input[1]", "empty_string"),
    ("embeddings", {"input": ["a"] * 2049}, "input", "array_above_max_length"),
    ("embeddings", {"input": {"text": "a"}}, "input", "invalid_type"),
    ("embeddings", {"encoding_format": "int8"}, "encoding_format", "invalid_value"),
    ("embeddings", {"encoding_format": 5}, "encoding_format", "invalid_type"),
    ("embeddings", {"dimensions": 0}, "dimensions", "integer_below_min_value"),
    ("embeddings", {"stream": True}, "stream", "invalid_value"),
    ("rerank", {"query": None}, "query", "missing_required_parameter"),
    ("rerank", {"query": 5}, "query", "invalid_type"),
    ("rerank", {"query": ""}, "query", "empty_string"),
    ("rerank", {"documents": None}, "documents", "missing_required_parameter"),
    ("rerank", {"documents": []}, "documents", "empty_array"),
    ("rerank", {"documents": "a"}, "documents", "invalid_type"),
    ("rerank", {"documents": ["a", 1]}, "documents[1]", "invalid_type"),
    ("rerank", {"documents": [{"title": "a"}]}, "documents[0].text", "missing_required_parameter"),
    ("rerank", {"top_n": 0}, "top_n", "integer_below_min_value"),
    ("rerank", {"stream": True}, "stream", "invalid_value"),
]


@pytest.mark.parametrize(("kind", "fields", "param", "code"), WRONG)
def test_a_field_that_is_wrong_is_refused_by_name(
    kind: LanguageKind, fields: dict[str, Any], param: str, code: str
) -> None:
    error = refusal(kind, **fields)
    assert (error.param, error.code, error.status) == (param, code, 400)
    assert param in error.message


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("chat", {"temperature": 2, "top_p": 0, "n": 128, "max_tokens": 1, "stop": ["a"] * 16, "seed": -1}),
        ("chat", {"stop": "a", "logit_bias": {"1": -100}, "logprobs": True, "top_logprobs": 20}),
        ("chat", {"tool_choice": {"type": "function", "function": {"name": "f"}}, "tools": [TOOL]}),
        ("chat", {"response_format": {"type": "json_object", "schema": {}}, "reasoning_effort": "high"}),
        ("completions", {"prompt": [1, 2], "max_tokens": 0, "echo": True, "logprobs": 5, "suffix": ""}),
        ("chat", {"tool_choice": {"type": "allowed_tools", "allowed_tools": {}}, "function_call": {"name": "f"}}),
        ("chat", {"model": "m" * 256}),
        ("embeddings", {"stream": False}),
        ("completions", {"prompt": [[1], [2, 3]]}),
        ("completions", {"prompt": ["", "b"], "stream": True}),
        ("embeddings", {"input": [[1], [2]], "encoding_format": "base64", "dimensions": 1}),
        ("embeddings", {"input": ["a"] * 2048}),
        ("embeddings", {"input": [1, 2, 3]}),
        ("embeddings", {"input": [" ", "\n"]}),
        ("rerank", {"documents": [{"text": "a", "title": "t"}, ""], "top_n": 5, "return_documents": False}),
    ],
)
def test_values_at_the_edge_of_what_is_allowed_are_taken(kind: LanguageKind, fields: dict[str, Any]) -> None:
    assert parse(kind, **fields).kind == kind


def test_a_refusal_says_what_to_send_instead() -> None:
    assert refusal("chat", temperature=3).message == (
        "Invalid 'temperature': decimal above maximum value. Expected a value <= 2, but got 3 instead."
    )
    assert refusal("chat", n="2").message == "Invalid type for 'n': expected an integer, but got a string instead."
    assert "expected a string or an array of strings, but got an integer" in refusal("chat", stop=5).message
    assert "expected a string, or an array of strings or tokens" in refusal("embeddings", input={}).message
    assert "'system', 'developer', 'user'" in refusal("chat", messages=[{"role": "x" * 500}]).message
    assert f"'{'x' * 64}...'" in refusal("chat", messages=[{"role": "x" * 500}]).message
    assert f"'{'x' * 64}'" in refusal("chat", messages=[{"role": "x" * 64}]).message
    assert "'a?b'" in refusal("chat", messages=[{"role": "a\nb"}]).message


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children, max_size=3),
    max_leaves=8,
)
FIELDS = sorted({name for _, fields, _, _ in WRONG for name in fields} | {"input", "tools", "text", "reasoning"})


@given(st.sampled_from(sorted(MINIMAL)), st.dictionaries(st.sampled_from(FIELDS), json_values, max_size=4))
def test_any_body_is_taken_or_refused_with_a_field_that_it_has(kind: LanguageKind, fields: dict[str, Any]) -> None:
    body = {**MINIMAL[kind], **fields}
    refused = None
    try:
        request = parse_language_request(kind, body, b"")
        assert request.body is body
        assert text_chars(request) >= 0
    except InvalidRequest as error:
        refused = error
    if refused is not None:
        assert refused.param is not None
        assert refused.message.isprintable() or not refused.param.isprintable()


def test_text_is_counted_wherever_a_model_reads_it_and_pictures_are_not() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 1000}}
    message = {"role": "user", "content": [{"type": "text", "text": "four"}, image]}
    assert text_chars(chat(message)) == 4
    assert text_chars(chat({"role": "assistant", "tool_calls": [CALL]})) == 2
    assert text_chars(parse("completions", prompt=["ab", "c"])) == 3
    assert text_chars(parse("completions", prompt=[1, 2, 3])) == 3
    assert text_chars(parse("rerank", documents=["ab", {"text": "cd"}])) == 5
    shown = {
        "role": "user",
        "content": [{"type": "input_text", "text": "four"}, {"type": "input_image", "image_url": "d:"}],
    }
    given_input = [shown, {"type": "function_call_output", "call_id": "c", "output": "out"}]
    assert text_chars(parse("responses", instructions="sys", input=given_input)) == 3 + 4 + 3


def test_a_body_that_nothing_was_changed_in_keeps_its_bytes() -> None:
    request = parse("chat", model="m", max_tokens=5)
    assert with_body(request, {"model": "m"}) == (request.body, request.raw)


def test_a_changed_body_has_no_raw_bytes_and_leaves_the_request_as_it_was() -> None:
    request = parse("chat", model="a:m", max_tokens=5, top_k=1, stop=None)
    body, raw = with_body(request, {"model": "m", "max_tokens": None, "seed": 1})
    assert (body, raw) == ({"messages": HELLO, "model": "m", "top_k": 1, "stop": None, "seed": 1}, None)
    assert request.body["model"] == "a:m"
