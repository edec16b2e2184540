"""What the scripted model says: a rule's answer filled in, cut to the request's limits, and split into pieces. Pure."""

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from appliance.backends.chat_shapes import (
    Head,
    TokenCount,
    ToolCall,
    chat_event,
    chat_usage_event,
    text_event,
    text_usage_event,
    tool_call_delta,
)
from appliance.backends.mock_asked import Asked, fill, fill_all
from appliance.config.mock_script import Answer, ScriptedCall
from appliance.protocol.canonical import compact_json
from appliance.protocol.sse import DONE

MAX_ANSWER_CHARS = 1_000_000  # what `repeat` can make of a long input
CHARS_PER_TOKEN = 4  # a rule of thumb for English; what counts is that it is the same everywhere

_AUTO = "auto"
_SAMPLE_DEPTH = 8
_WORD = re.compile(r"\s*\S+|\s+\Z")


@dataclass(frozen=True, slots=True)
class Said:
    """An answer in full. `pieces`: characters of one piece of a stream, None for a word."""

    content: str
    reasoning: str
    tool_calls: tuple[ToolCall, ...]
    finish_reason: str
    tokens: TokenCount
    chunk_chars: int | None


def say(answer: Answer, asked: Asked, body: Mapping[str, Any], request_id: str) -> Said:
    """Same request and same request id, same answer: `max_tokens` and `stop` cut it, everything else is the script's."""
    room = _max_chars(body)
    reasoning = "" if asked.kind == "completions" else fill(answer.reasoning, asked)[:room]
    full = _up_to_stop((fill(answer.text, asked) * answer.repeat)[:MAX_ANSWER_CHARS], body.get("stop"))
    content = full[: room - len(reasoning)]
    calls = tuple(
        _call(call, asked, f"{request_id}/{asked.messages}/{index}") for index, call in enumerate(answer.tool_calls)
    )
    written = len(reasoning) + len(content) + sum(len(call.name) + len(call.arguments) for call in calls)
    cut = len(content) < len(full)
    return Said(
        content=content,
        reasoning=reasoning,
        tool_calls=calls,
        finish_reason=answer.finish_reason or ("length" if cut else "tool_calls" if calls else "stop"),
        tokens=TokenCount(count_tokens(len(asked.text)), count_tokens(written)),
        chunk_chars=answer.chunk_chars,
    )


def count_tokens(chars: int) -> int:
    return -(-chars // CHARS_PER_TOKEN)


def derived_hex(seed: str) -> str:
    """24 hex digits for an id, always the same for the same seed."""
    return hashlib.sha256(seed.encode()).hexdigest()[:24]


def chat_events(head: Head, said: Said, *, include_usage: bool) -> Iterator[bytes]:
    """The role first; the end of the answer, its usage and `[DONE]` in one."""
    yield chat_event(head, {"role": "assistant", "content": ""})
    for piece in _pieces(said.reasoning, said.chunk_chars):
        yield chat_event(head, {"reasoning_content": piece})
    for piece in _pieces(said.content, said.chunk_chars):
        yield chat_event(head, {"content": piece})
    for index, call in enumerate(said.tool_calls):
        yield chat_event(head, tool_call_delta(index, call))
    usage = chat_usage_event(head, said.tokens) if include_usage else b""
    yield chat_event(head, {}, said.finish_reason) + usage + DONE


def text_events(head: Head, said: Said, *, include_usage: bool) -> Iterator[bytes]:
    for piece in _pieces(said.content, said.chunk_chars):
        yield text_event(head, piece)
    usage = text_usage_event(head, said.tokens) if include_usage else b""
    yield text_event(head, "", said.finish_reason) + usage + DONE


def _pieces(text: str, chunk_chars: int | None) -> Iterator[str]:
    """Joined, they are the text again."""
    if chunk_chars is None:
        return (match[0] for match in _WORD.finditer(text))
    return (text[start : start + chunk_chars] for start in range(0, len(text), chunk_chars))


def _max_chars(body: Mapping[str, Any]) -> int:
    limits = [body[name] for name in ("max_tokens", "max_completion_tokens") if body.get(name) is not None]
    return min(limits) * CHARS_PER_TOKEN if limits else 2 * MAX_ANSWER_CHARS


def _up_to_stop(text: str, stop: str | list[str] | None) -> str:
    words = [stop] if isinstance(stop, str) else stop or []
    ends = [text.find(word) for word in words if word and word in text]
    return text[: min(ends)] if ends else text


def _call(call: ScriptedCall, asked: Asked, seed: str) -> ToolCall:
    name = fill(call.name, asked)
    return ToolCall(f"toolcall-{derived_hex(seed)}", name, _arguments(call, name, asked))


def _arguments(call: ScriptedCall, name: str, asked: Asked) -> str:
    if call.arguments == _AUTO:
        return compact_json(_sample(asked.tools.get(name, {}), asked.input, _SAMPLE_DEPTH)).decode()
    if isinstance(call.arguments, str):
        return fill(call.arguments, asked)
    return compact_json(fill_all(call.arguments, asked)).decode()


def _sample(schema: Any, text: str, depth: int) -> Any:
    """Arguments that a JSON Schema is likely to take: what it requires, the input wherever a string is wanted."""
    if not isinstance(schema, dict) or not depth:
        return {}
    for ready in ("const", "default"):
        if ready in schema:
            return schema[ready]
    for ready in ("enum", "examples"):
        if isinstance(schema.get(ready), list) and schema[ready]:
            return schema[ready][0]
    kind = schema.get("type")
    kind = kind[0] if isinstance(kind, list) and kind else kind
    simple = {"string": text, "integer": 1, "number": 1, "boolean": True, "array": [], "null": None}
    if isinstance(kind, str) and kind in simple:
        return simple[kind]
    properties = schema.get("properties")
    names = schema.get("required")
    if not isinstance(properties, dict) or not isinstance(names, list):
        return {}
    return {name: _sample(properties.get(name), text, depth - 1) for name in names if isinstance(name, str)}
