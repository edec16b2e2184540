"""OpenAPI of responses requests: what `responses_fields` checks, as schemas."""

from collections.abc import Mapping

from appliance.protocol.chat_fields import MAX_TOKENS_LIMIT, MAX_TOOLS
from appliance.protocol.openapi_chat import STREAM_RULE, with_model
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
from appliance.protocol.responses_fields import REFUSED, ROLES

_PART = request_object({"type": STRING}, {"text": STRING, "refusal": STRING, "image_url": STRING, "file_data": STRING})
_PARTS = array_of(ref("ResponsesPart"))

_MESSAGE = needs(role=one_of(*ROLES), content=any_of(STRING, _PARTS))
_IS_MESSAGE: Schema = {
    "not": {"required": ["type"], "properties": {"type": {"not": any_of(NULL, {"const": "message"})}}}
}
_ITEM: Schema = {
    "type": "object",
    "properties": {"type": nullable(STRING)},
    "allOf": [
        {"if": _IS_MESSAGE, "then": _MESSAGE},
        when("type", {"const": "function_call"}, needs(call_id=NON_EMPTY, name=NON_EMPTY, arguments=STRING)),
        when("type", {"const": "function_call_output"}, needs(call_id=NON_EMPTY, output=any_of(STRING, _PARTS))),
        when(
            "type",
            {"const": "reasoning"},
            {"properties": {"content": nullable(_PARTS), "summary": nullable(_PARTS)}},
        ),
    ],
}

_FORMAT = request_object(
    {"type": one_of("text", "json_object", "json_schema")},
    {"description": STRING, "strict": BOOLEAN},
    allOf=[when("type", {"const": "json_schema"}, needs(name=NON_EMPTY, schema=OBJECT))],
)
_TOOL = request_object(
    {"type": one_of("function"), "name": NON_EMPTY},
    {"description": STRING, "parameters": OBJECT, "strict": BOOLEAN},
)
_FIELDS: Mapping[str, Schema] = {
    "stream": BOOLEAN,
    "instructions": STRING,
    "max_output_tokens": between("integer", 1, MAX_TOKENS_LIMIT),
    "max_tool_calls": between("integer", 1, MAX_TOKENS_LIMIT),
    "temperature": between("number", 0, 2),
    "top_p": between("number", 0, 1),
    "top_logprobs": between("integer", 0, 20),
    "parallel_tool_calls": BOOLEAN,
    "store": BOOLEAN,
    "tools": array_of(_TOOL, highest=MAX_TOOLS),
    "tool_choice": any_of(
        one_of("none", "auto", "required"), request_object({"type": one_of("function"), "name": NON_EMPTY}, {})
    ),
    "text": request_object({}, {"format": _FORMAT, "verbosity": STRING}),
    "reasoning": request_object({}, {"effort": STRING, "summary": STRING}),
    "truncation": one_of("auto", "disabled"),
    "include": array_of(STRING),
    "metadata": {"type": "object", "additionalProperties": STRING},
    "user": STRING,
    "prompt_cache_key": STRING,
    "safety_identifier": STRING,
    "stream_options": OBJECT,
}
# What this gateway does not do may be sent as long as it asks for nothing.
_ASKS_NOTHING: Mapping[str, Schema] = {
    **dict.fromkeys(REFUSED, SAYS_NOTHING),
    "background": {"enum": [False, None]},
}
_REQUEST = request_object({"input": any_of(STRING, array_of(ref("ResponsesItem"), lowest=1))}, _FIELDS)

RESPONSES_SCHEMAS: Mapping[str, Schema] = {
    "ResponsesPart": _PART,
    "ResponsesItem": _ITEM,
    "ResponsesRequest": with_model(
        {**_REQUEST, "properties": {**_REQUEST["properties"], **_ASKS_NOTHING}, "allOf": [STREAM_RULE]}
    ),
}
