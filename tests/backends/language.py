"""Language calls as dispatch would make them, with what a test wants changed."""

import json
from collections.abc import Mapping
from typing import Any

from appliance.backends.base import LanguageBackend, LanguageCall
from appliance.config.classes import BackendClass, HealthPaths, Provider
from appliance.protocol.ids import new_id
from appliance.protocol.language import LanguageKind
from appliance.upstream.client import UpstreamClient

BODIES: Mapping[LanguageKind, Mapping[str, Any]] = {
    "chat": {"model": "small", "messages": [{"role": "user", "content": "Hi"}]},
    "completions": {"model": "small", "prompt": "Hi"},
    "responses": {"model": "small", "input": "Hi"},
    "embeddings": {"model": "small", "input": "Hi"},
    "rerank": {"model": "small", "query": "Hi", "documents": ["a", "b", "c"]},
}


def language_class(base_url: str, *, provider: Provider = "openai", **changes: Any) -> BackendClass:
    return BackendClass(
        **{
            "name": "gpu",
            "base_url": base_url,
            "provider": provider,
            "capabilities": frozenset({"chat", "embeddings", "rerank"}),
            "limits": {"chat": 2},
            "health": HealthPaths("/health", "/health", exact=False),
            **changes,
        }
    )


def language_call(
    base_url: str = "http://127.0.0.1:1",
    kind: LanguageKind = "chat",
    *,
    raw: bytes | None = None,
    backend_class: BackendClass | None = None,
    **fields: Any,
) -> LanguageCall:
    """`fields`: of the body, over BODIES. `raw`: the body as it came in, if it was not changed."""
    body = {**BODIES[kind], **fields}
    return LanguageCall(
        request_id=new_id("req"),
        backend_class=backend_class or language_class(base_url),
        kind=kind,
        model=body["model"],
        body=body,
        raw=raw,
        first_byte_s=60,
        idle_s=30,
        total_s=600,
    )


async def answer(backend: LanguageBackend, call: LanguageCall, upstream: UpstreamClient) -> Any:
    return json.loads(await backend.answer(call, upstream))


async def stream(backend: LanguageBackend, call: LanguageCall, upstream: UpstreamClient) -> bytes:
    """All of a stream, to its end."""
    async with backend.stream(call, upstream) as source:
        pieces = []
        while piece := await source.receive():
            pieces.append(piece)
        return b"".join(pieces)
