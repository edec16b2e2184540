"""OpenAPI of language requests made of messages or texts: what `chat_fields` and `prompt_fields` check, as schemas.

`tests/protocol/test_openapi_requests.py` holds the two to each other, field by field.
"""

from collections.abc import Mapping
from typing import Any

from appliance.protocol.chat_fields import MAX_STOPS, MAX_TOKENS_LIMIT, MAX_TOOLS, ROLES, SAYS_WITHOUT_CONTENT
from appliance.protocol.openapi_parts import (
    BOOLEAN,
    NON_EMPTY,
    NULL,
    OBJECT,
    SAYS_NOTHING,
    STRING,
    Schema,
    any_of,
    array_of,
    between,
    needs,
    nullable,
    one_of,
    ref,
    request_object,
    when,
)
from appliance.protocol.prompt_fields import MAX_INPUTS

_TOKEN = between("integer", 0, 2**31 - 1)
_TOKENS = array_of(_TOKEN, lowest=1)
_NOT_NULL: Schema = {"not": NULL}
_TRUE: Schema = {"not": SAYS_NOTHING}
MODEL: Schema = {
    **nullable(STRING),
    "description": "`<class>:<model>`, an alias, `auto`, in at most 256 printable characters; none: `default`.",
}

_PART = request_object(
    {"type": STRING},
    {},
    allOf=[
        when("type", {"const": "text"}, needs(text=STRING)),
        when("type", {"const": "image_url"}, needs(image_url=request_object({"url": NON_EMPTY}, {}))),
        when("type", {"const": "input_audio"}, needs(input_audio=request_object({"data": STRING}, {}))),
    ],
)
_CALLED = request_object({"name": NON_EMPTY}, {"arguments": any_of(STRING, OBJECT)})
_FUNCTION = request_object({"name": NON_EMPTY}, {"description": STRING, "parameters": OBJECT, "strict": BOOLEAN})
_CALL = request_object({"id": NON_EMPTY, "function": ref("CalledFunction")}, {"type": one_of("function")})
_TOOL = request_object({"type": one_of("function"), "function": ref("Function")}, {})

_SAYS_SOMETHING = needs(content=_NOT_NULL)
_SAYS_OTHERWISE = any_of(*({"required": [name], "properties": {name: _TRUE}} for name in SAYS_WITHOUT_CONTENT))
_MESSAGE = request_object(
    {"role": one_of(*ROLES)},
    {
        "content": any_of(STRING, array_of(ref("ContentPart"))),
        "name": STRING,
        "refusal": STRING,
        "reasoning_content": STRING,
        "tool_calls": array_of(ref("ToolCall")),
        "function_call": ref("CalledFunction"),
    },
    allOf=[
        when("role", {"const": "tool"}, needs(tool_call_id=NON_EMPTY)),
        when("role", {"const": "function"}, needs(name=NON_EMPTY)),
        when("role", {"enum": ["system", "developer", "user", "tool"]}, _SAYS_SOMETHING),
        when("role", {"const": "assistant"}, any_of(_SAYS_SOMETHING, _SAYS_OTHERWISE)),
    ],
)

# stream_options is only allowed where there is a stream.
STREAM_RULE = when("stream_options", _NOT_NULL, needs(stream={"const": True}))
STREAMED: Mapping[str, Schema] = {"stream": BOOLEAN, "stream_options": request_object({}, {"include_usage": BOOLEAN})}
NOT_STREAMED: Mapping[str, Schema] = {"stream": {"const": False}}

_SAMPLING: Mapping[str, Schema] = {
    **STREAMED,
    "temperature": between("number", 0, 2),
    "top_p": between("number", 0, 1),
    "n": between("integer", 1, 128),
    "stop": any_of(STRING, array_of(STRING, highest=MAX_STOPS)),
    "presence_penalty": between("number", -2, 2),
    "frequency_penalty": between("number", -2, 2),
    "seed": between("integer", -(2**63), 2**64 - 1),
    "logit_bias": {"type": "object", "additionalProperties": between("number", -100, 100)},
    "user": STRING,
}

_CHOICE: Schema = any_of(
    one_of("none", "auto", "required"),
    request_object(
        {"type": STRING},
        {},
        allOf=[when("type", {"const": "function"}, needs(function=request_object({"name": NON_EMPTY}, {})))],
    ),
)

CHAT: Mapping[str, Any] = request_object(
    {"messages": array_of(ref("Message"), lowest=1)},
    {
        **_SAMPLING,
        "max_tokens": between("integer", 1, MAX_TOKENS_LIMIT),
        "max_completion_tokens": between("integer", 1, MAX_TOKENS_LIMIT),
        "logprobs": BOOLEAN,
        "top_logprobs": between("integer", 0, 20),
        "tools": array_of(_TOOL, highest=MAX_TOOLS),
        "tool_choice": _CHOICE,
        "parallel_tool_calls": BOOLEAN,
        "functions": array_of(ref("Function"), highest=MAX_TOOLS),
        "function_call": any_of(one_of("none", "auto"), request_object({"name": NON_EMPTY}, {})),
        "response_format": request_object({"type": NON_EMPTY}, {"json_schema": OBJECT}),
        "reasoning_effort": STRING,
        "metadata": OBJECT,
    },
    allOf=[STREAM_RULE],
)


def _texts(text: Schema) -> Schema:
    """A text, texts, tokens, or lists of tokens."""
    return any_of(text, *(array_of(one, lowest=1, highest=MAX_INPUTS) for one in (text, _TOKENS)), _TOKENS)


COMPLETIONS: Mapping[str, Any] = request_object(
    {"prompt": _texts(STRING)},
    {
        **_SAMPLING,
        "max_tokens": between("integer", 0, MAX_TOKENS_LIMIT),
        "best_of": between("integer", 1, 128),
        "logprobs": between("integer", 0, 20),
        "echo": BOOLEAN,
        "suffix": STRING,
    },
    allOf=[STREAM_RULE],
)

EMBEDDINGS: Mapping[str, Any] = request_object(
    {"input": _texts(NON_EMPTY)},
    {
        **NOT_STREAMED,
        "encoding_format": one_of("float", "base64"),
        "dimensions": between("integer", 1, 2**31 - 1),
        "user": STRING,
    },
)

RERANK: Mapping[str, Any] = request_object(
    {
        "query": NON_EMPTY,
        "documents": array_of(any_of(STRING, request_object({"text": STRING}, {})), lowest=1, highest=MAX_INPUTS),
    },
    {
        **NOT_STREAMED,
        "top_n": between("integer", 1, 2**31 - 1),
        "return_documents": BOOLEAN,
        "metadata": OBJECT,
    },
)


def with_model(schema: Schema) -> Schema:
    """The same with the field that every language request may have."""
    return {**schema, "properties": {"model": MODEL, **schema["properties"]}}


CHAT_SCHEMAS: Mapping[str, Schema] = {
    "Message": _MESSAGE,
    "ContentPart": _PART,
    "ToolCall": _CALL,
    "CalledFunction": _CALLED,
    "Function": _FUNCTION,
    "ChatRequest": with_model(CHAT),
    "CompletionsRequest": with_model(COMPLETIONS),
    "EmbeddingsRequest": with_model(EMBEDDINGS),
    "RerankRequest": with_model(RERANK),
}
