"""A fake language backend whose stream a test feeds, holds and breaks."""

import json
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from appliance.backends.base import LanguageCall, LanguageKind, ModelEntry
from appliance.config.classes import BackendClass
from appliance.upstream.client import UpstreamClient

ANSWER = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "m",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
}


def chunk(delta: dict[str, object], finish: str | None = None, **more: object) -> bytes:
    """One chat chunk as an event."""
    body = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
        **more,
    }
    return f"data: {json.dumps(body)}\n\n".encode()


@dataclass
class GatedLanguage:
    """Streams what the test `say`s; `end` ends properly, `fail` raises. `opened` and `closed` count streams."""

    calls: list[LanguageCall] = field(default_factory=list)
    gate: trio.Event = field(default_factory=trio.Event)
    refuse: Exception | None = None
    answers: bytes = json.dumps(ANSWER).encode()
    native_responses: bool = False
    opened: int = 0
    closed: int = 0
    _pieces: deque[bytes | Exception] = field(default_factory=deque)
    _moved: trio.Event = field(default_factory=trio.Event)

    def say(self, *pieces: bytes) -> None:
        self._put(*pieces)

    def end(self) -> None:
        self._put(b"")

    def fail(self, error: Exception) -> None:
        self._put(error)

    def _put(self, *pieces: bytes | Exception) -> None:
        self._pieces.extend(pieces)
        self._moved.set()
        self._moved = trio.Event()

    def kinds(self, backend_class: BackendClass) -> frozenset[LanguageKind]:
        every: frozenset[LanguageKind] = frozenset({"chat", "completions", "embeddings", "rerank"})
        return every | {"responses"} if self.native_responses else every

    async def answer(self, call: LanguageCall, upstream: UpstreamClient) -> bytes:
        self.calls.append(call)
        await self.gate.wait()
        if self.refuse is not None:
            raise self.refuse
        return self.answers

    @asynccontextmanager
    async def stream(self, call: LanguageCall, upstream: UpstreamClient) -> AsyncIterator["GatedLanguage"]:
        self.calls.append(call)
        if self.refuse is not None:
            raise self.refuse
        self.opened += 1
        try:
            yield self
        finally:
            self.closed += 1

    async def receive(self) -> bytes:
        while not self._pieces:
            await self._moved.wait()
        piece = self._pieces.popleft()
        if isinstance(piece, Exception):
            raise piece
        return piece

    async def list_models(
        self, backend_class: BackendClass, upstream: UpstreamClient, timeout_s: float
    ) -> tuple[ModelEntry, ...]:
        return (ModelEntry("qwen2.5:7b"), ModelEntry("llama3.2:3b"))
