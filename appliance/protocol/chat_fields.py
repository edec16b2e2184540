"""The fields of a chat request: messages, tools, and the options that chat and completions share."""

from collections.abc import Mapping
from typing import Any

from appliance.protocol.fields import (
    Check,
    boolean,
    check_fields,
    check_length,
    integer,
    invalid,
    json_object,
    list_of,
    non_empty_string,
    number,
    one_of,
    required,
    string,
    wrong_name,
    wrong_type,
)

MAX_TOKENS_LIMIT = 2**31 - 1  # what llama.cpp and vLLM count tokens in
MAX_STOPS = 16  # OpenAI takes 4; llama.cpp, vLLM and Ollama any number
MAX_TOOLS = 1024  # OpenAI takes 128; editors with many tool servers send more

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
SAYS_WITHOUT_CONTENT = ("tool_calls", "function_call", "refusal", "audio", "reasoning_content", "reasoning")


def check_chat(body: Mapping[str, Any]) -> None:
    """Check the body of `POST /v1/chat/completions`. Raises InvalidRequest."""
    _messages(required(body, "messages"), "messages")
    check_fields(body, _CHAT)
    check_stream_options(body)


def check_stream_options(body: Mapping[str, Any]) -> None:
    if body.get("stream_options") is not None and not body.get("stream"):
        raise invalid("stream_options", "it is only allowed when 'stream' is true.")


def _messages(value: Any, param: str) -> None:
    check_length(value, param, lowest=1)
    for index, message in enumerate(value):
        _message(message, f"{param}[{index}]")


def _message(message: Any, place: str) -> None:
    json_object(message, place)
    role = required(message, "role", place)
    string(role, f"{place}.role")
    if role not in ROLES:
        raise wrong_name(role, f"{place}.role", ROLES)
    content = message.get("content")
    if not isinstance(content, str):
        _content(content, message, place)
    if role == "tool":
        non_empty_string(required(message, "tool_call_id", place), f"{place}.tool_call_id")
    if role == "function":
        non_empty_string(required(message, "name", place), f"{place}.name")
    check_fields(message, _MESSAGE, place)


def _content(content: Any, message: Mapping[str, Any], place: str) -> None:
    """Content that is not a string: parts, or nothing where the message says something in another way."""
    if content is None:
        if message["role"] == "function":
            return
        if message["role"] == "assistant" and any(message.get(name) for name in SAYS_WITHOUT_CONTENT):
            return
        required(message, "content", place)
    if not isinstance(content, list):
        raise wrong_type(f"{place}.content", "a string or an array of content parts", content)
    for index, part in enumerate(content):
        _part(part, f"{place}.content[{index}]")


def _part(part: Any, place: str) -> None:
    """One content part. Types beyond OpenAI's are left to the backend."""
    json_object(part, place)
    kind = required(part, "type", place)
    string(kind, f"{place}.type")
    if kind == "text":
        string(required(part, "text", place), f"{place}.text")
    if kind == "image_url":
        image = required(part, "image_url", place)
        json_object(image, f"{place}.image_url")
        non_empty_string(required(image, "url", f"{place}.image_url"), f"{place}.image_url.url")
    if kind == "input_audio":
        audio = required(part, "input_audio", place)
        json_object(audio, f"{place}.input_audio")
        string(required(audio, "data", f"{place}.input_audio"), f"{place}.input_audio.data")


def _tool_call(call: Any, place: str) -> None:
    json_object(call, place)
    non_empty_string(required(call, "id", place), f"{place}.id")
    check_fields(call, {"type": one_of("function")}, place)
    _called(required(call, "function", place), f"{place}.function")


def _called(function: Any, place: str) -> None:
    json_object(function, place)
    non_empty_string(required(function, "name", place), f"{place}.name")
    arguments = function.get("arguments")
    if arguments is not None and not isinstance(arguments, str | dict):  # Ollama's clients send the object itself
        raise wrong_type(f"{place}.arguments", "a string of JSON", arguments)


def _tool(tool: Any, place: str) -> None:
    json_object(tool, place)
    kind = required(tool, "type", place)
    one_of("function")(kind, f"{place}.type")
    _function(required(tool, "function", place), f"{place}.function")


def _function(function: Any, place: str) -> None:
    json_object(function, place)
    non_empty_string(required(function, "name", place), f"{place}.name")
    check_fields(function, {"description": string, "parameters": json_object, "strict": boolean}, place)


def _tool_choice(choice: Any, param: str) -> None:
    if isinstance(choice, str):
        one_of("none", "auto", "required")(choice, param)
        return
    if not isinstance(choice, dict):
        raise wrong_type(param, "a string or an object", choice)
    kind = required(choice, "type", param)
    string(kind, f"{param}.type")
    if kind == "function":
        function = required(choice, "function", param)
        json_object(function, f"{param}.function")
        non_empty_string(required(function, "name", f"{param}.function"), f"{param}.function.name")


def _function_call(choice: Any, param: str) -> None:
    if isinstance(choice, str):
        one_of("none", "auto")(choice, param)
        return
    json_object(choice, param)
    non_empty_string(required(choice, "name", param), f"{param}.name")


def _response_format(value: Any, param: str) -> None:
    json_object(value, param)
    non_empty_string(required(value, "type", param), f"{param}.type")
    check_fields(value, {"json_schema": json_object}, param)


def _stop(value: Any, param: str) -> None:
    if isinstance(value, str):
        return
    if not isinstance(value, list):
        raise wrong_type(param, "a string or an array of strings", value)
    list_of(string, highest=MAX_STOPS)(value, param)


def _stream_options(value: Any, param: str) -> None:
    json_object(value, param)
    check_fields(value, {"include_usage": boolean}, param)


def _logit_bias(value: Any, param: str) -> None:
    json_object(value, param)
    for token, bias in value.items():
        number(-100, 100)(bias, f"{param}.{token[:32]}")


_MESSAGE: Mapping[str, Check] = {
    "name": string,
    "refusal": string,
    "reasoning_content": string,
    "tool_calls": list_of(_tool_call),
    "function_call": _called,
}

SAMPLING: Mapping[str, Check] = {
    "temperature": number(0, 2),
    "top_p": number(0, 1),
    "n": integer(1, 128),
    "stop": _stop,
    "presence_penalty": number(-2, 2),
    "frequency_penalty": number(-2, 2),
    "seed": integer(-(2**63), 2**64 - 1),  # vLLM takes signed ones, llama.cpp up to 2^32, some clients unsigned ones
    "logit_bias": _logit_bias,
    "user": string,
    "stream_options": _stream_options,
}

_CHAT: Mapping[str, Check] = {
    **SAMPLING,
    "max_tokens": integer(1, MAX_TOKENS_LIMIT),
    "max_completion_tokens": integer(1, MAX_TOKENS_LIMIT),
    "logprobs": boolean,
    "top_logprobs": integer(0, 20),
    "tools": list_of(_tool, highest=MAX_TOOLS),
    "tool_choice": _tool_choice,
    "parallel_tool_calls": boolean,
    "functions": list_of(_function, highest=MAX_TOOLS),
    "function_call": _function_call,
    "response_format": _response_format,
    "reasoning_effort": string,
    "metadata": json_object,
}
