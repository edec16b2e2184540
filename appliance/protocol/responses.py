"""Responses through chat: the request as a chat request, and the chat's answer as a response object."""

from collections.abc import Mapping
from typing import Any

from appliance.protocol.fields import unsupported
from appliance.protocol.ids import NewId
from appliance.protocol.responses_input import messages_of
from appliance.protocol.responses_stream import ResponsesStream

# What chat has in other words, and what has an effect at OpenAI alone. All other fields go on as they came.
_NOT_CHAT = frozenset(
    {
        "input",
        "instructions",
        "max_output_tokens",
        "text",
        "reasoning",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "metadata",
        "store",
        "include",
        "background",
        "previous_response_id",
        "conversation",
        "prompt",
        "context_management",
        "moderation",
        "truncation",
        "max_tool_calls",
        "service_tier",
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
        "stream_options",
        "top_logprobs",
    }
)


def to_chat(body: Mapping[str, Any]) -> dict[str, Any]:
    """The chat request for a checked responses request. Raises InvalidRequest for what chat cannot say, by name."""
    _refuse(body)
    chat = {name: value for name, value in body.items() if name not in _NOT_CHAT and value is not None}
    chat["messages"] = messages_of(body)
    if body.get("max_output_tokens") is not None:
        chat["max_tokens"] = body["max_output_tokens"]
    if body.get("stream"):
        chat["stream_options"] = {"include_usage": True}
    reasoning = body.get("reasoning") or {}
    if reasoning.get("effort") is not None:
        chat["reasoning_effort"] = reasoning["effort"]
    return chat | _text_options(body.get("text") or {}) | _tool_options(body)


def from_chat(answer: Mapping[str, Any], body: Mapping[str, Any], *, new_id: NewId, created: int) -> dict[str, Any]:
    """The response object for a chat completion, by the same rules as a streamed one. `created`: Unix seconds."""
    stream = ResponsesStream(body, new_id=new_id, created=created)
    stream.feed({**answer, "choices": [_as_chunk(choice) for choice in _entries(answer.get("choices"))]})
    stream.finish()
    return stream.response()


def _as_chunk(choice: Mapping[str, Any]) -> dict[str, Any]:
    """A whole choice as the only chunk of one."""
    message = choice.get("message")
    delta = dict(message) if isinstance(message, Mapping) else {}
    delta["tool_calls"] = [
        {**call, "index": index} for index, call in enumerate(_entries(delta.get("tool_calls"))) if call
    ]
    return {**choice, "delta": delta}


def _entries(value: object) -> list[Mapping[str, Any]]:
    return [entry for entry in value if isinstance(entry, Mapping)] if isinstance(value, list) else []


def _refuse(body: Mapping[str, Any]) -> None:
    if body.get("truncation") == "auto":
        raise unsupported("truncation", "this backend cuts no input. Leave it out, or say 'disabled'.")
    if body.get("top_logprobs"):
        raise unsupported("top_logprobs", "there are none in this backend's responses. Ask /v1/chat/completions.")


def _text_options(text: Mapping[str, Any]) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if text.get("verbosity") is not None:
        options["verbosity"] = text["verbosity"]
    wanted = text.get("format") or {}
    if wanted.get("type") == "json_object":
        options["response_format"] = {"type": "json_object"}
    if wanted.get("type") == "json_schema":
        schema = _given(wanted, "name", "description", "schema", "strict")
        options["response_format"] = {"type": "json_schema", "json_schema": schema}
    return options


def _tool_options(body: Mapping[str, Any]) -> dict[str, Any]:
    """Tools and how to use them; without tools a choice that asks for none of them says nothing."""
    tools = body.get("tools") or []
    choice = body.get("tool_choice")
    options: dict[str, Any] = {}
    if tools:
        options["tools"] = [
            {"type": "function", "function": _given(tool, "name", "description", "parameters", "strict")}
            for tool in tools
        ]
        options.update(_given(body, "parallel_tool_calls"))
    if isinstance(choice, Mapping):
        options["tool_choice"] = {"type": "function", "function": {"name": choice["name"]}}
    elif choice == "required" or (choice is not None and tools):
        options["tool_choice"] = choice
    return options


def _given(source: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: source[name] for name in names if source.get(name) is not None}
