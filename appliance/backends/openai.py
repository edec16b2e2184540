"""OpenAI-style language servers: llama.cpp, vLLM, LM Studio, MLX, llama-swap, LocalAI and the like, passed through.

A request goes on as it came, byte for byte where nothing in it was changed; an answer that is what it should be comes
back as it is. Closing the connection is the cancel of all of them. What differs between servers is mended in
`openai_answers`, `openai_vectors` and `openai_streams`.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import lru_cache
from types import MappingProxyType

from appliance.backends.base import ByteSource, LanguageCall, ModelEntry
from appliance.backends.openai_answers import checked_answer, models_in, refusal
from appliance.backends.openai_streams import as_events
from appliance.config.classes import BackendClass
from appliance.protocol.canonical import compact_json
from appliance.protocol.language import LanguageKind
from appliance.upstream.client import UpstreamClient, UpstreamStream
from appliance.upstream.exchange import MAX_JSON_BYTES, UpstreamAnswer, UpstreamCall

_PATHS: dict[LanguageKind, str] = {
    "chat": "/v1/chat/completions",
    "completions": "/v1/completions",
    "responses": "/v1/responses",
    "embeddings": "/v1/embeddings",
    "rerank": "/v1/rerank",
}
_MODELS_PATH = "/v1/models"
_JSON_HEADERS: Mapping[str, str] = MappingProxyType({"Content-Type": "application/json"})
_REFUSAL_BYTES = 64 * 1024  # more of an error than is ever looked at
_EVERYWHERE: frozenset[LanguageKind] = frozenset({"chat", "completions", "embeddings", "rerank"})


class OpenAIBackend:
    """Speaks to any server with OpenAI's API."""

    def kinds(self, backend_class: BackendClass) -> frozenset[LanguageKind]:
        """All but responses, which few servers have: the operator says which."""
        return _EVERYWHERE | {"responses"} if backend_class.responses == "native" else _EVERYWHERE

    async def answer(self, call: LanguageCall, upstream: UpstreamClient) -> bytes:
        async with upstream.open_stream(_post(call)) as stream:
            await _refuse_failure(stream, call.backend_class, _PATHS[call.kind])
            body = await stream.read_all(MAX_JSON_BYTES)
            return checked_answer(body, call, content_type=stream.content_type)

    @asynccontextmanager
    async def stream(self, call: LanguageCall, upstream: UpstreamClient) -> AsyncIterator[ByteSource]:
        async with upstream.open_stream(_post(call)) as stream:
            await _refuse_failure(stream, call.backend_class, _PATHS[call.kind])
            yield await as_events(stream, call)

    async def list_models(
        self, backend_class: BackendClass, upstream: UpstreamClient, timeout_s: float
    ) -> tuple[ModelEntry, ...]:
        async with upstream.open_stream(_get_models(backend_class, timeout_s)) as stream:
            await _refuse_failure(stream, backend_class, _MODELS_PATH)
            return models_in(await stream.read_all(MAX_JSON_BYTES), upstream=backend_class.name)


@lru_cache(256)  # a handful of classes with a handful of paths each
def endpoint(base_url: str, path: str) -> str:
    """One `/v1`, whether base_url ends in it or not."""
    return base_url.rstrip("/").removesuffix("/v1") + path


def _post(call: LanguageCall) -> UpstreamCall:
    return UpstreamCall(
        backend_class=call.backend_class.name,
        method="POST",
        url=endpoint(call.backend_class.base_url, _PATHS[call.kind]),
        headers=_JSON_HEADERS,
        body=compact_json(call.body) if call.raw is None else call.raw,
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


async def _refuse_failure(stream: UpstreamStream, backend_class: BackendClass, path: str) -> None:
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
    raise refusal(said, upstream=backend_class.name, path=path)
