"""Ollama, by its native API: `/api/chat`, `/api/generate`, `/api/embed`, `/api/tags`. Closing is its cancel.

What becomes of each field of a request is in `ollama_fields` and `ollama_messages`; whatever cannot be honoured is
refused by name. A full queue (Ollama's 503) is passed on as 429 with Retry-After.
"""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from appliance.backends.base import ByteSource, LanguageCall, ModelEntry
from appliance.backends.chat_shapes import Head
from appliance.backends.ollama_answers import (
    chat_answer,
    embeddings_answer,
    models_in,
    parse_line,
    refusal,
    text_answer,
)
from appliance.backends.ollama_request import PATHS, native_request
from appliance.backends.ollama_stream import ChatTranslator, EventStream, TextTranslator, Translator
from appliance.config.classes import BackendClass
from appliance.protocol.canonical import compact_json
from appliance.protocol.ids import NewId, new_id
from appliance.protocol.language import LanguageKind
from appliance.upstream.client import UpstreamClient, UpstreamStream
from appliance.upstream.exchange import MAX_JSON_BYTES, UpstreamAnswer, UpstreamCall

_MODELS_PATH = "/api/tags"
_REFUSAL_BYTES = 64 * 1024  # more of an error than is ever looked at


@dataclass(frozen=True, slots=True)
class OllamaBackend:
    """Speaks to an Ollama server. `now`: Unix seconds."""

    now: Callable[[], float] = time.time
    new_id: NewId = new_id

    def kinds(self, backend_class: BackendClass) -> frozenset[LanguageKind]:
        return frozenset(PATHS)

    async def answer(self, call: LanguageCall, upstream: UpstreamClient) -> bytes:
        async with upstream.open_stream(_post(call, stream=False)) as stream:
            await _refuse_failure(stream, call.backend_class)
            body = await stream.read_all(MAX_JSON_BYTES)
        name = call.backend_class.name
        said = parse_line(body, upstream=name)
        if call.kind == "embeddings":
            texts = call.body["input"]
            return embeddings_answer(
                said,
                asked=1 if isinstance(texts, str) else len(texts),
                model=call.model,
                encoding_format=call.body.get("encoding_format"),
                upstream=name,
            )
        if call.kind == "completions":
            return text_answer(said, self._head(call), upstream=name)
        return chat_answer(said, self._head(call), self.new_id, upstream=name)

    @asynccontextmanager
    async def stream(self, call: LanguageCall, upstream: UpstreamClient) -> AsyncIterator[ByteSource]:
        async with upstream.open_stream(_post(call, stream=True)) as stream:
            await _refuse_failure(stream, call.backend_class)
            yield _Events(stream, EventStream(self._translator(call), upstream=call.backend_class.name))

    async def list_models(
        self, backend_class: BackendClass, upstream: UpstreamClient, timeout_s: float
    ) -> tuple[ModelEntry, ...]:
        async with upstream.open_stream(_get_models(backend_class, timeout_s)) as stream:
            await _refuse_failure(stream, backend_class)
            body = await stream.read_all(MAX_JSON_BYTES)
        return models_in(parse_line(body, upstream=backend_class.name), upstream=backend_class.name)

    def _head(self, call: LanguageCall) -> Head:
        return Head(self.new_id("cmpl" if call.kind == "completions" else "chatcmpl"), int(self.now()), call.model)

    def _translator(self, call: LanguageCall) -> Translator:
        include_usage = bool((call.body.get("stream_options") or {}).get("include_usage"))
        name = call.backend_class.name
        if call.kind == "completions":
            return TextTranslator(self._head(call), include_usage=include_usage, upstream=name)
        return ChatTranslator(self._head(call), self.new_id, include_usage=include_usage, upstream=name)


class _Events:
    """A ByteSource. A read is translated without waiting in between, so a receive that is cancelled loses nothing."""

    def __init__(self, stream: UpstreamStream, events: EventStream) -> None:
        self._stream = stream
        self._events = events

    async def receive(self) -> bytes:
        while not self._events.ended:
            self._events.raise_failure()
            piece = await self._stream.receive()
            events = self._events.feed(piece) if piece else self._events.finish()
            if events:
                return events
        return b""


def endpoint(base_url: str, path: str) -> str:
    """The native API, for a base_url that was written for the other one too."""
    return base_url.rstrip("/").removesuffix("/v1").removesuffix("/api").rstrip("/") + path


def _post(call: LanguageCall, *, stream: bool) -> UpstreamCall:
    return UpstreamCall(
        backend_class=call.backend_class.name,
        method="POST",
        url=endpoint(call.backend_class.base_url, PATHS[call.kind]),
        headers={"Content-Type": "application/json"},
        body=compact_json(native_request(call.kind, call.body, call.model, stream=stream)),
        first_byte_s=call.first_byte_s,
        idle_s=call.idle_s,
        total_s=call.total_s,
        keep_alive=True,
    )


def _get_models(backend_class: BackendClass, timeout_s: float) -> UpstreamCall:
    return UpstreamCall(
        backend_class=backend_class.name,
        method="GET",
        url=endpoint(backend_class.base_url, _MODELS_PATH),
        first_byte_s=timeout_s,
        idle_s=timeout_s,
        total_s=timeout_s,
        keep_alive=True,
    )


async def _refuse_failure(stream: UpstreamStream, backend_class: BackendClass) -> None:
    """Raise UpstreamFailed for every status but 200."""
    if stream.status == 200:
        return
    said = UpstreamAnswer(
        status=stream.status,
        content_type=stream.content_type,
        retry_after=stream.retry_after,
        body=await stream.read_start(_REFUSAL_BYTES),
        latency_s=stream.latency_s,
    )
    raise refusal(said, upstream=backend_class.name)
