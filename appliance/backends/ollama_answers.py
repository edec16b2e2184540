"""Answers of Ollama: whole ones in OpenAI's shape, its models, its refusals. Pure."""

from collections.abc import Mapping
from datetime import datetime
from functools import partial
from typing import Any, Literal

from pydantic_core import from_json

from appliance.backends.base import ModelEntry
from appliance.backends.chat_shapes import Head, TokenCount, ToolCall, whole_chat, whole_embeddings, whole_text
from appliance.protocol.canonical import compact_json
from appliance.protocol.errors import UpstreamFailed
from appliance.protocol.ids import NewId
from appliance.upstream.exchange import UpstreamAnswer
from appliance.upstream.failures import failure_from_answer

MAX_MODELS = 2000
MAX_MODEL_NAME_CHARS = 256
BUSY_RETRY_S = 5.0

FinishReason = Literal["stop", "length", "tool_calls"]


def parse_line(data: bytes, *, upstream: str) -> dict[str, Any]:
    """One JSON object. Raises UpstreamFailed for anything else, and for `{"error": ...}`."""
    try:
        said = from_json(data, allow_inf_nan=False)
    except ValueError:
        raise unusable(upstream, "something that is not JSON") from None
    if not isinstance(said, dict):
        raise unusable(upstream, "JSON that is not an object")
    if said.get("error"):
        raise failure_from_answer(UpstreamAnswer(200, "application/json", None, data, 0.0), upstream=upstream)
    return said


def refusal(answer: UpstreamAnswer, *, upstream: str) -> UpstreamFailed:
    """The error for a status that is not 200.

    Ollama's 503 says that its queue is full: that is 429 here, which clients wait for and try again, and which says
    nothing against the backend's health. A 404 is the client's fault only where it is about the model.
    """
    error = failure_from_answer(answer, upstream=upstream)
    body = error.extra.get("body")
    failed = partial(
        UpstreamFailed, upstream=upstream, upstream_status=answer.status, body=body if isinstance(body, str) else None
    )
    if answer.status == 503:
        return failed(error.message, status=429, code="upstream_busy", retry_after_s=BUSY_RETRY_S)
    if answer.status == 404 and b"model" not in answer.body.lower():
        return failed(f"{upstream} has no such API: is it an Ollama server, and new enough?")
    if answer.status == 404:
        error.code = "model_not_found"
    return error


def chat_answer(said: Mapping[str, Any], head: Head, new_id: NewId, *, upstream: str) -> bytes:
    _check_complete(said, upstream)
    message = message_of(said, upstream=upstream)
    calls = calls_of(message, new_id, upstream=upstream)
    return whole_chat(
        head,
        content=text_in(message, "content", upstream=upstream),
        reasoning=text_in(message, "thinking", upstream=upstream),
        tool_calls=calls,
        finish_reason=finish_reason(said, called=bool(calls)),
        tokens=tokens_in(said),
    )


def text_answer(said: Mapping[str, Any], head: Head, *, upstream: str) -> bytes:
    _check_complete(said, upstream)
    if not isinstance(said.get("response"), str):
        raise unusable(upstream, "JSON without a response")
    return whole_text(
        head, text=said["response"], finish_reason=finish_reason(said, called=False), tokens=tokens_in(said)
    )


def embeddings_answer(
    said: Mapping[str, Any], *, asked: int, model: str, encoding_format: str | None, upstream: str
) -> bytes:
    """`asked`: how many vectors there must be."""
    vectors = said.get("embeddings")
    if not isinstance(vectors, list) or len(vectors) != asked or not all(_is_vector(vector) for vector in vectors):
        raise unusable(upstream, f"no list of {asked} embeddings")
    tokens = tokens_in(said).prompt
    try:
        return whole_embeddings(vectors, model=model, encoding_format=encoding_format, prompt_tokens=tokens)
    except OverflowError:
        raise unusable(upstream, "embeddings that no 32-bit numbers hold") from None


def models_in(said: Mapping[str, Any], *, upstream: str) -> tuple[ModelEntry, ...]:
    items = said.get("models")
    if not isinstance(items, list):
        raise unusable(upstream, "no list of models")
    entries = (_model(item) for item in items[:MAX_MODELS] if isinstance(item, dict))
    return tuple({entry.name: entry for entry in entries if entry is not None}.values())


def message_of(said: Mapping[str, Any], *, upstream: str) -> Mapping[str, Any]:
    message = said.get("message")
    if not isinstance(message, dict):
        raise unusable(upstream, "JSON without a message")
    return message


def text_in(message: Mapping[str, Any], name: str, *, upstream: str) -> str:
    text = message.get(name) or ""
    if not isinstance(text, str):
        raise unusable(upstream, f"a message whose {name} is no text")
    return text


def calls_of(message: Mapping[str, Any], new_id: NewId, *, upstream: str) -> tuple[ToolCall, ...]:
    calls = message.get("tool_calls") or []
    if not isinstance(calls, list):
        raise unusable(upstream, "tool calls that are no list")
    return tuple(_call(call, new_id, upstream) for call in calls)


def finish_reason(said: Mapping[str, Any], *, called: bool) -> FinishReason:
    """`load` and `unload`, which end an empty request, are a stop like any other."""
    if called:
        return "tool_calls"
    return "length" if said.get("done_reason") == "length" else "stop"


def tokens_in(said: Mapping[str, Any]) -> TokenCount:
    """A count is missing where it is nought, or where older servers found the prompt in their cache."""
    return TokenCount(_count(said.get("prompt_eval_count")), _count(said.get("eval_count")))


def unusable(upstream: str, what: str) -> UpstreamFailed:
    return UpstreamFailed(f"{upstream} answered {what}.", upstream=upstream)


def _check_complete(said: Mapping[str, Any], upstream: str) -> None:
    if said.get("done") is not True:
        raise unusable(upstream, "an answer that is not complete")


def _call(call: Any, new_id: NewId, upstream: str) -> ToolCall:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise unusable(upstream, "a tool call without a name")
    return ToolCall(new_id("toolcall"), function["name"], _arguments(function.get("arguments")))


def _arguments(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "{}" if value is None else compact_json(value).decode()


def _count(value: Any) -> int:
    return value if type(value) is int and value >= 0 else 0


def _is_vector(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(number) in (int, float) for number in value)


def _model(item: Mapping[str, Any]) -> ModelEntry | None:
    name = item.get("name") or item.get("model")
    if not isinstance(name, str) or len(name) > MAX_MODEL_NAME_CHARS or not name.isprintable() or not name.strip():
        return None
    return ModelEntry(name.strip(), _seconds(item.get("modified_at")))


def _seconds(value: Any) -> int:
    """Unix seconds of an RFC 3339 time with nanoseconds, as Go writes it; 0 for what is none."""
    try:
        return max(0, int(datetime.fromisoformat(value).timestamp()))
    except (TypeError, ValueError, OverflowError):
        return 0
