"""The fields of a responses request, and what of OpenAI's responses API this gateway does not do, by name."""

from collections.abc import Mapping
from typing import Any

from appliance.protocol.chat_fields import MAX_TOKENS_LIMIT, MAX_TOOLS, check_stream_options
from appliance.protocol.errors import InvalidRequest
from appliance.protocol.fields import (
    Check,
    boolean,
    check_fields,
    check_length,
    integer,
    json_object,
    list_of,
    non_empty_string,
    number,
    one_of,
    quoted,
    required,
    string,
    unsupported,
    wrong_type,
)

ROLES = ("user", "assistant", "system", "developer")

_NO_MEMORY = "this gateway keeps no conversation. Leave it out and send the whole of it in 'input'."

REFUSED: Mapping[str, str] = {
    "previous_response_id": _NO_MEMORY,
    "conversation": _NO_MEMORY,
    "background": "this gateway answers while you wait. Leave it out, or say false.",
    "prompt": "this gateway stores no prompt templates. Leave it out and send the text in 'instructions' and 'input'.",
    "context_management": "this gateway sends the input on as it is. Leave it out and shorten the input yourself.",
    "moderation": "this gateway does not moderate. Leave it out.",
}


def check_responses(body: Mapping[str, Any]) -> None:
    """Check the body of `POST /v1/responses`. Raises InvalidRequest."""
    for name, why in REFUSED.items():
        if body.get(name):
            raise unsupported(name, why)
    _input(required(body, "input"), "input")
    check_fields(body, _RESPONSES)
    check_stream_options(body)


def _input(value: Any, param: str) -> None:
    if isinstance(value, str):
        return
    if not isinstance(value, list):
        raise wrong_type(param, "a string or an array of input items", value)
    check_length(value, param, lowest=1)
    for index, item in enumerate(value):
        _item(item, f"{param}[{index}]")


def _item(item: Any, place: str) -> None:
    """One input item. Types that are not checked here are taken or refused where the request is carried out."""
    json_object(item, place)
    kind = item.get("type")
    if kind is None or kind == "message":
        _message(item, place)
        return
    string(kind, f"{place}.type")
    check = _ITEMS.get(kind)
    if check is not None:
        check(item, place)


def _message(item: Mapping[str, Any], place: str) -> None:
    one_of(*ROLES)(required(item, "role", place), f"{place}.role")
    content = required(item, "content", place)
    if not isinstance(content, str):
        list_of(_part)(content, f"{place}.content")


def _part(part: Any, place: str) -> None:
    json_object(part, place)
    string(required(part, "type", place), f"{place}.type")
    check_fields(part, {"text": string, "refusal": string, "image_url": string, "file_data": string}, place)


def _function_call(item: Mapping[str, Any], place: str) -> None:
    non_empty_string(required(item, "call_id", place), f"{place}.call_id")
    non_empty_string(required(item, "name", place), f"{place}.name")
    string(required(item, "arguments", place), f"{place}.arguments")


def _function_call_output(item: Mapping[str, Any], place: str) -> None:
    non_empty_string(required(item, "call_id", place), f"{place}.call_id")
    output = required(item, "output", place)
    if not isinstance(output, str):
        list_of(_part)(output, f"{place}.output")


def _reasoning(item: Mapping[str, Any], place: str) -> None:
    check_fields(item, {"content": list_of(_part), "summary": list_of(_part)}, place)


def _tool(tool: Any, place: str) -> None:
    json_object(tool, place)
    kind = required(tool, "type", place)
    string(kind, f"{place}.type")
    if kind != "function":
        raise _not_ours(kind, f"{place}.type")
    non_empty_string(required(tool, "name", place), f"{place}.name")
    check_fields(tool, {"description": string, "parameters": json_object, "strict": boolean}, place)


def _tool_choice(choice: Any, param: str) -> None:
    if isinstance(choice, str):
        one_of("none", "auto", "required")(choice, param)
        return
    json_object(choice, param)
    kind = required(choice, "type", param)
    string(kind, f"{param}.type")
    if kind != "function":
        raise _not_ours(kind, f"{param}.type")
    non_empty_string(required(choice, "name", param), f"{param}.name")


def _not_ours(kind: str, param: str) -> InvalidRequest:
    return InvalidRequest(
        f"Unsupported value for '{param}': '{quoted(kind)}'. This gateway runs no hosted tools: send tools of type "
        "'function' and run them yourself.",
        param=param,
        code="unsupported_value",
    )


def _text(value: Any, param: str) -> None:
    json_object(value, param)
    check_fields(value, {"format": _format, "verbosity": string}, param)


def _format(value: Any, param: str) -> None:
    json_object(value, param)
    one_of("text", "json_object", "json_schema")(required(value, "type", param), f"{param}.type")
    if value["type"] == "json_schema":
        non_empty_string(required(value, "name", param), f"{param}.name")
        json_object(required(value, "schema", param), f"{param}.schema")
    check_fields(value, {"description": string, "strict": boolean}, param)


def _reasoning_options(value: Any, param: str) -> None:
    json_object(value, param)
    check_fields(value, {"effort": string, "summary": string}, param)


def _metadata(value: Any, param: str) -> None:
    json_object(value, param)
    for key, text in value.items():
        string(text, f"{param}.{key[:64]}")


_ITEMS: Mapping[str, Check] = {
    "function_call": _function_call,
    "function_call_output": _function_call_output,
    "reasoning": _reasoning,
}

_RESPONSES: Mapping[str, Check] = {
    "instructions": string,
    "max_output_tokens": integer(1, MAX_TOKENS_LIMIT),
    "max_tool_calls": integer(1, MAX_TOKENS_LIMIT),
    "temperature": number(0, 2),
    "top_p": number(0, 1),
    "top_logprobs": integer(0, 20),
    "parallel_tool_calls": boolean,
    "store": boolean,  # either way: this gateway stores no answers, and says so in them
    "background": boolean,
    "tools": list_of(_tool, highest=MAX_TOOLS),
    "tool_choice": _tool_choice,
    "text": _text,
    "reasoning": _reasoning_options,
    "truncation": one_of("auto", "disabled"),
    "include": list_of(string),
    "metadata": _metadata,
    "user": string,
    "prompt_cache_key": string,
    "safety_identifier": string,
    "stream_options": json_object,
}
