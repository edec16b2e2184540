"""OpenAPI: request schemas take and refuse what the parsers do; the errors are those of the table."""

import copy
import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from appliance.protocol.agents import parse_replay, parse_run
from appliance.protocol.errors import ANSWERS, InvalidRequest
from appliance.protocol.images import parse_image_request
from appliance.protocol.language import LanguageKind, parse_language_request
from appliance.protocol.openapi import openapi_document, openapi_path
from appliance.protocol.openapi_answers import REFUSED_BY_LISTENER
from appliance.protocol.tools import parse_arguments, parse_call

DOCUMENT = json.loads(json.dumps(openapi_document("1.2.3")))
BIG_PIXELS = 10**13


def validator(name: str) -> Draft202012Validator:
    schema = {"$ref": f"#/components/schemas/{name}", "components": DOCUMENT["components"]}
    return Draft202012Validator(schema)


def language(kind: LanguageKind) -> Callable[[Mapping[str, Any]], object]:
    return lambda body: parse_language_request(kind, body, b"")


TOOL = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {}, "strict": True}}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
SAMPLING: Mapping[str, Any] = {
    "model": "m",
    "stream": True,
    "stream_options": {"include_usage": True},
    "temperature": 1.5,
    "top_p": 0.5,
    "n": 1,
    "stop": ["a"],
    "presence_penalty": -2,
    "frequency_penalty": 0,
    "seed": 7,
    "logit_bias": {"5": 1},
    "user": "u",
}
SAMPLES: Mapping[str, tuple[Callable[[Mapping[str, Any]], object], Mapping[str, Any]]] = {
    "ChatRequest": (
        language("chat"),
        {
            **SAMPLING,
            "messages": [
                {"role": "system", "content": "s", "name": "n"},
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "t"},
                        {"type": "image_url", "image_url": {"url": "data:,"}},
                        {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}},
                    ],
                },
                {"role": "assistant", "content": None, "tool_calls": [CALL], "reasoning_content": "r"},
                {"role": "tool", "tool_call_id": "c", "content": "x"},
                {"role": "function", "name": "f", "content": None},
                {"role": "assistant", "content": "a", "function_call": {"name": "f", "arguments": {}}},
            ],
            "max_tokens": 1,
            "max_completion_tokens": 1,
            "logprobs": True,
            "top_logprobs": 20,
            "tools": [TOOL],
            "tool_choice": {"type": "function", "function": {"name": "f"}},
            "parallel_tool_calls": False,
            "functions": [{"name": "f"}],
            "function_call": {"name": "f"},
            "response_format": {"type": "json_schema", "json_schema": {}},
            "reasoning_effort": "low",
            "metadata": {},
        },
    ),
    "CompletionsRequest": (
        language("completions"),
        {**SAMPLING, "prompt": ["a", "b"], "max_tokens": 0, "best_of": 1, "logprobs": 3, "echo": True, "suffix": ""},
    ),
    "ResponsesRequest": (
        language("responses"),
        {
            "model": "m",
            "input": [
                {"role": "user", "content": "hi"},
                {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "x"}]},
                {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
                {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_text", "text": "o"}]},
                {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "r"}], "summary": []},
            ],
            "instructions": "i",
            "max_output_tokens": 5,
            "max_tool_calls": 1,
            "temperature": 0,
            "top_p": 1,
            "top_logprobs": 0,
            "parallel_tool_calls": True,
            "store": False,
            "background": False,
            "tools": [{"type": "function", "name": "f", "description": "d", "parameters": {}, "strict": False}],
            "tool_choice": {"type": "function", "name": "f"},
            "text": {"format": {"type": "json_schema", "name": "n", "schema": {}, "strict": True}, "verbosity": "low"},
            "reasoning": {"effort": "low", "summary": "auto"},
            "truncation": "disabled",
            "include": ["x"],
            "metadata": {"k": "v"},
            "user": "u",
            "stream": True,
            "stream_options": {},
            "previous_response_id": None,
            "prompt": {},
        },
    ),
    "EmbeddingsRequest": (
        language("embeddings"),
        {"model": "m", "input": [[1, 2]], "encoding_format": "float", "dimensions": 8, "user": "u", "stream": False},
    ),
    "RerankRequest": (
        language("rerank"),
        {"query": "q", "documents": ["a", {"text": "b"}], "top_n": 1, "return_documents": True, "metadata": {}},
    ),
    "ImageRequest": (
        lambda body: parse_image_request(body, max_pixels=BIG_PIXELS),
        {
            "prompt": "p",
            "n": 1,
            "size": "8x8",
            "response_format": "b64_json",
            "model": "m",
            "stream": True,
            "partial_images": 3,
            "seed": -1,
            "steps": 3,
            "num_inference_steps": 200,
            "guidance": 1.5,
            "guidance_scale": 0,
            "cfg_scale": 100,
            "negative_prompt": "n",
            "negative": " ",
            "sampler": "s",
            "scheduler": "s",
            "style": "s",
            "quality": "q",
        },
    ),
    "ToolCallRequest": (parse_call, {"name": "noop", "arguments": {"text": "x"}}),
    "ToolArguments": (parse_arguments, {"arguments": {"text": "x"}}),
    "RunRequest": (parse_run, {"agent": "default", "messages": [{"role": "user", "content": "x"}], "stream": True}),
    "ReplayRequest": (parse_replay, {"mode": "fork", "from_step": 3, "model": "m", "stream": False}),
}
VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    -1,
    0,
    3,
    1.5,
    2**70,
    "",
    " ",
    "x",
    "auto",
    [],
    ["x"],
    [3],
    {},
    {"type": "x"},
)


def places(value: Any) -> list[tuple[Any, ...]]:
    """Where something stands, at any depth."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, child in children for place in [(key,), *((key, *deeper) for deeper in places(child))]]


def accepted(parse: Callable[[Mapping[str, Any]], object], body: Mapping[str, Any]) -> str | None:
    try:
        parse(body)
    except InvalidRequest as refused:
        return refused.message
    return None


@pytest.mark.parametrize("name", SAMPLES)
def test_a_request_with_every_field_fits_its_schema(name: str) -> None:
    parse, sample = SAMPLES[name]
    assert accepted(parse, sample) is None
    validator(name).validate(sample)


@pytest.mark.parametrize("name", SAMPLES)
def test_schema_and_parser_agree_on_every_field_left_out_or_replaced(name: str) -> None:
    parse, sample = SAMPLES[name]
    check = validator(name)
    for place in places(sample):
        for value in (..., *VALUES):
            body = changed(sample, place, value)
            said = accepted(parse, body)
            assert check.is_valid(body) == (said is None), (place, value, said)


@pytest.mark.parametrize("name", SAMPLES)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_schema_and_parser_agree_on_two_changes_at_once(name: str, data: st.DataObject) -> None:
    parse, sample = SAMPLES[name]
    body: Any = sample
    for _ in range(2):
        if found := places(body):
            body = changed(body, data.draw(st.sampled_from(found)), data.draw(st.sampled_from((..., *VALUES))))
    said = accepted(parse, body)
    assert validator(name).is_valid(body) == (said is None), (body, said)


def changed(sample: Mapping[str, Any], place: tuple[Any, ...], value: Any) -> dict[str, Any]:
    """A copy in which something else stands there; `...` takes it out."""
    body: Any = copy.deepcopy(dict(sample))
    holder = body
    for key in place[:-1]:
        holder = holder[key]
    if value is ...:
        del holder[place[-1]]
    else:
        holder[place[-1]] = copy.deepcopy(value)
    return dict(body)


def test_unknown_fields_go_on_where_a_backend_may_know_them_and_nowhere_else() -> None:
    assert validator("ChatRequest").is_valid({"messages": [{"role": "user", "content": "x"}], "min_p": 0.1})
    assert not validator("ToolCallRequest").is_valid({"name": "noop", "min_p": 0.1})
    assert not validator("RunRequest").is_valid({"input": "x", "min_p": 0.1})


def test_a_run_has_an_input_or_messages() -> None:
    for body in ({}, {"input": "x", "messages": [{"role": "user", "content": "x"}]}, {"input": None}):
        assert not validator("RunRequest").is_valid(body)
        assert accepted(parse_run, body) is not None


def test_all_references_lead_somewhere_and_all_schemas_are_schemas() -> None:
    def references(value: Any) -> set[str]:
        if isinstance(value, dict):
            own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
            return own.union(*map(references, value.values()))
        return set().union(*map(references, value)) if isinstance(value, list) else set()

    for reference in references(DOCUMENT):
        found = DOCUMENT
        for key in reference.removeprefix("#/").split("/"):
            found = found[key]
    used = {reference.rpartition("/")[2] for reference in references(DOCUMENT)}
    assert used >= DOCUMENT["components"]["schemas"].keys(), "each schema is used"
    for schema in DOCUMENT["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


def test_every_status_and_code_of_an_error_is_in_the_document() -> None:
    responses = DOCUMENT["components"]["responses"]
    statuses = {answer.status for answer in ANSWERS.values()} | set(REFUSED_BY_LISTENER)
    assert {int(name.removeprefix("Error")) for name in responses} == statuses
    for answer in ANSWERS.values():
        assert f"`{answer.code}`" in responses[f"Error{answer.status}"]["description"]
    used = {status for item in DOCUMENT["paths"].values() for one in methods(item) for status in one["responses"]}
    assert {str(status) for status in statuses} - used == {"405"}, "a method that is documented is allowed"


def test_every_operation_has_an_id_of_its_own_and_says_what_it_takes() -> None:
    operations = [one for item in DOCUMENT["paths"].values() for one in methods(item)]
    ids = [one["operationId"] for one in operations]
    assert len(set(ids)) == len(ids)
    assert all(one["summary"].endswith((".", "?")) for one in operations)


def methods(item: Mapping[str, Any]) -> list[Any]:
    return [one for name, one in item.items() if name != "parameters"]


@pytest.mark.parametrize(
    ("template", "path"),
    [
        ("/v1/models", "/v1/models"),
        ("/v1/models/<path:model_id>", "/v1/models/{model_id}"),
        ("/v1/tools/<name>", "/v1/tools/{name}"),
    ],
)
def test_a_template_is_written_as_openapi_does(template: str, path: str) -> None:
    assert openapi_path(template) == path
