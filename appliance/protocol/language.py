"""Requests to language models: a parsed body of each kind, checked field by field, unknown fields kept."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

from appliance.protocol.chat_fields import check_chat
from appliance.protocol.fields import boolean, invalid, string
from appliance.protocol.frozen import frozen
from appliance.protocol.prompt_fields import check_completions, check_embeddings, check_rerank
from appliance.protocol.responses_fields import check_responses

LanguageKind = Literal["chat", "completions", "responses", "embeddings", "rerank"]

MAX_MODEL_CHARS = 256  # it goes out again in headers and in the log

_STREAMED: frozenset[LanguageKind] = frozenset({"chat", "completions", "responses"})

_WITH_TOOLS: frozenset[LanguageKind] = frozenset({"chat", "responses"})

_CHECKS: Mapping[LanguageKind, Callable[[Mapping[str, Any]], None]] = {
    "chat": check_chat,
    "completions": check_completions,
    "responses": check_responses,
    "embeddings": check_embeddings,
    "rerank": check_rerank,
}

# Where the text of each kind stands, for counting it.
_TEXTS: Mapping[LanguageKind, tuple[str, ...]] = {
    "chat": ("messages",),
    "completions": ("prompt",),
    "responses": ("instructions", "input"),
    "embeddings": ("input",),
    "rerank": ("query", "documents"),
}

# What of a message, a part, an item or a document is read as text, or leads to it: pictures and files are not.
_TEXT_PARTS = ("content", "text", "arguments", "output", "tool_calls", "function")


@frozen
class LanguageRequest:
    """A checked request. `body`: parsed, with every field it came with; `raw`: as it came.

    `model` is stripped, and "" where the client named none.
    """

    kind: LanguageKind
    body: Mapping[str, Any]
    raw: bytes
    model: str
    stream: bool
    include_usage: bool
    has_tools: bool


def parse_language_request(kind: LanguageKind, body: Mapping[str, Any], raw: bytes) -> LanguageRequest:
    """Check a parsed JSON body. Raises InvalidRequest naming the field, such as `messages[0].role`."""
    model = _model(body.get("model"))
    stream = _stream(kind, body.get("stream"))
    _CHECKS[kind](body)
    options = (stream and body.get("stream_options")) or {}
    tools = kind in _WITH_TOOLS and (body.get("tools") or body.get("functions"))
    return LanguageRequest(
        kind=kind,
        body=body,
        raw=raw,
        model=model,
        stream=stream,
        include_usage=bool(options.get("include_usage")),
        has_tools=bool(tools),
    )


def _model(value: Any) -> str:
    if value is None:
        return ""
    string(value, "model")
    name = str(value).strip()
    if len(name) > MAX_MODEL_CHARS or not name.isprintable():
        raise invalid("model", f"it must be at most {MAX_MODEL_CHARS} printable characters.")
    return name


def _stream(kind: LanguageKind, value: Any) -> bool:
    if value is None:
        return False
    boolean(value, "stream")
    if value and kind not in _STREAMED:
        raise invalid("stream", f"{kind} do not stream: leave it out or say false.")
    return bool(value)


def text_chars(request: LanguageRequest) -> int:
    """The characters of all text that the model is to read; tokens count as one each."""
    return sum(_chars(request.body.get(name)) for name in _TEXTS[request.kind])


def _chars(value: Any) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, list):
        return sum(_chars(item) for item in value)
    if isinstance(value, dict):
        return sum(_chars(value[name]) for name in _TEXT_PARTS if name in value)
    return int(isinstance(value, int))


def with_body(request: LanguageRequest, changes: Mapping[str, Any]) -> tuple[Mapping[str, Any], bytes | None]:
    """The body with these fields changed, None taking one out; and the raw bytes if that changed nothing."""
    real = {name: value for name, value in changes.items() if request.body.get(name) != value}
    if not real:
        return request.body, request.raw
    merged = {**request.body, **real}
    return {name: value for name, value in merged.items() if value is not None or name not in real}, None
