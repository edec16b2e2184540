"""OpenAI's shapes of answers, for providers that speak another language: whole ones and the events of streams."""

import base64
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from appliance.protocol.canonical import compact_json
from appliance.protocol.sse import sse_event


@dataclass(frozen=True, slots=True)
class Head:
    """What every part of an answer repeats. `created`: Unix seconds."""

    id: str
    created: int
    model: str


@dataclass(frozen=True, slots=True)
class ToolCall:
    """`arguments`: JSON as a string, as OpenAI sends it."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class TokenCount:
    prompt: int
    completion: int = 0


def whole_chat(
    head: Head,
    *,
    content: str,
    reasoning: str = "",
    tool_calls: Sequence[ToolCall] = (),
    finish_reason: str,
    tokens: TokenCount,
) -> bytes:
    message: dict[str, Any] = {"role": "assistant", "content": content or (None if tool_calls else "")}
    if reasoning:
        message["reasoning_content"] = reasoning
    if tool_calls:
        message["tool_calls"] = [_tool_call(call) for call in tool_calls]
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason}
    return compact_json(_object(head, "chat.completion", [choice]) | {"usage": _usage(tokens)})


def chat_event(head: Head, delta: Mapping[str, Any], finish_reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    return sse_event(compact_json(_object(head, "chat.completion.chunk", [choice])))


def tool_call_delta(index: int, call: ToolCall) -> dict[str, Any]:
    return {"tool_calls": [{"index": index, **_tool_call(call)}]}


def chat_usage_event(head: Head, tokens: TokenCount) -> bytes:
    return sse_event(compact_json(_object(head, "chat.completion.chunk", []) | {"usage": _usage(tokens)}))


def whole_text(head: Head, *, text: str, finish_reason: str, tokens: TokenCount) -> bytes:
    choices = [_text_choice(text, finish_reason)]
    return compact_json(_object(head, "text_completion", choices) | {"usage": _usage(tokens)})


def text_event(head: Head, text: str, finish_reason: str | None = None) -> bytes:
    return sse_event(compact_json(_object(head, "text_completion", [_text_choice(text, finish_reason)])))


def text_usage_event(head: Head, tokens: TokenCount) -> bytes:
    return sse_event(compact_json(_object(head, "text_completion", []) | {"usage": _usage(tokens)}))


def whole_embeddings(
    vectors: Iterable[Sequence[float]], *, model: str, encoding_format: str | None, prompt_tokens: int
) -> bytes:
    """`encoding_format` base64: little-endian 32-bit floats, which OpenAI's SDKs ask for by themselves."""
    data = [
        {"object": "embedding", "index": index, "embedding": _encoded(vector, encoding_format)}
        for index, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": prompt_tokens, "total_tokens": prompt_tokens}
    return compact_json({"object": "list", "data": data, "model": model, "usage": usage})


def _encoded(vector: Sequence[float], encoding_format: str | None) -> object:
    """Raises OverflowError for a number that no 32-bit float holds."""
    if encoding_format == "base64":
        return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode("ascii")
    return list(vector)


def _object(head: Head, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
    return {"id": head.id, "object": kind, "created": head.created, "model": head.model, "choices": choices}


def _text_choice(text: str, finish_reason: str | None) -> dict[str, Any]:
    return {"index": 0, "text": text, "logprobs": None, "finish_reason": finish_reason}


def _tool_call(call: ToolCall) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _usage(tokens: TokenCount) -> dict[str, int]:
    total = tokens.prompt + tokens.completion
    return {"prompt_tokens": tokens.prompt, "completion_tokens": tokens.completion, "total_tokens": total}
