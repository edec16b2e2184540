"""A fake Ollama on loopback: its native API, answered at a pace, and the ways in which it dies."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import trio

from tests.fakes.http import Changes, Request, Server, Statistics, open_server

Script = Callable[["FakeOllama", Request], Awaitable[None]]
STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
COUNTS = {"prompt_eval_count": 11, "eval_count": 7}
TAGS = [
    {"name": "qwen2.5:7b", "model": "qwen2.5:7b", "modified_at": "2026-03-01T12:00:00.123456789+02:00", "size": 1},
    {"name": "llama3:latest", "model": "llama3:latest", "modified_at": "no time"},
    {"name": "", "model": ""},
    {"name": 5},
]


@dataclass
class FakeOllama:
    """`words`: what it answers, a line each; `calls`: tool calls, before the last line. `aborted`: clients that left."""

    server: Server
    script: Script | None = None
    words: list[str] = field(default_factory=lambda: ["Grüße", " ☃"])
    thinking: list[str] = field(default_factory=list)
    calls: list[dict[str, Any]] = field(default_factory=list)
    last: dict[str, Any] = field(default_factory=lambda: {"done_reason": "stop", **COUNTS})
    word_s: float = 0.0
    requests: list[Request] = field(default_factory=list)
    working: int = 0
    aborted: int = 0
    changes: Changes = field(default_factory=Changes)

    @property
    def base_url(self) -> str:
        return self.server.base_url

    @property
    def statistics(self) -> Statistics:
        return self.server.statistics

    @property
    def payloads(self) -> list[Any]:
        return [request.json() for request in self.requests]

    async def until_working(self, number: int = 1) -> None:
        await self.changes.until(lambda: self.working >= number)


@asynccontextmanager
async def open_fake_ollama(*, script: Script | None = None, **changes: Any) -> AsyncIterator[FakeOllama]:
    """Serve until the block ends."""
    holder: list[FakeOllama] = []
    async with open_server(lambda request: _handle(holder[0], request)) as server:
        holder.append(FakeOllama(server, script, **changes))
        yield holder[0]


async def _handle(fake: FakeOllama, request: Request) -> None:
    if fake.script is not None:
        fake.requests.append(request)
        await fake.script(fake, request)
        return
    if request.method == "GET" and request.path == "/api/tags":
        await request.respond_json(200, {"models": TAGS})
        return
    answer = _ANSWERS.get(request.path)
    if answer is None or request.method != "POST":
        await request.respond(404, b"404 page not found", {"Content-Type": "text/plain"})
        return
    fake.requests.append(request)
    await _work(fake, request, answer)


async def _work(fake: FakeOllama, request: Request, answer: "Answer") -> None:
    """A client that hangs up ends it at once."""
    fake.working += 1
    fake.changes.notify()
    done = False
    try:
        async with trio.open_nursery() as nursery:

            async def watch() -> None:
                await request.hung_up_instead()
                nursery.cancel_scope.cancel()

            nursery.start_soon(watch)
            await answer(fake, request, request.json())
            done = True
            nursery.cancel_scope.cancel()
    finally:
        fake.working -= 1
        fake.aborted += not done
        fake.changes.notify()


Answer = Callable[[FakeOllama, Request, dict[str, Any]], Awaitable[None]]


async def _chat(fake: FakeOllama, request: Request, payload: dict[str, Any]) -> None:
    if payload["stream"]:
        said = [{"thinking": word, "content": ""} for word in fake.thinking]
        said += [{"content": word} for word in fake.words]
        said += [{"content": "", "tool_calls": [call]} for call in fake.calls]
        lines = [{"message": {"role": "assistant", **message}, "done": False} for message in said]
        await _stream(fake, request, payload, [*lines, {"message": {"role": "assistant", "content": ""}}])
        return
    message: dict[str, Any] = {"role": "assistant", "content": "".join(fake.words)}
    if fake.thinking:
        message["thinking"] = "".join(fake.thinking)
    if fake.calls:
        message["tool_calls"] = fake.calls
    await trio.sleep(fake.word_s * len(fake.words))
    await request.respond_json(200, {"model": payload["model"], "message": message, "done": True, **fake.last})


async def _generate(fake: FakeOllama, request: Request, payload: dict[str, Any]) -> None:
    if payload["stream"]:
        lines = [{"response": word, "done": False} for word in fake.words]
        await _stream(fake, request, payload, [*lines, {"response": ""}])
        return
    answer = {"model": payload["model"], "response": "".join(fake.words), "done": True, **fake.last}
    await request.respond_json(200, answer)


async def _stream(fake: FakeOllama, request: Request, payload: dict[str, Any], lines: list[dict[str, Any]]) -> None:
    await request.send_raw(STREAM_HEAD)
    for line in lines[:-1]:
        await request.send_raw(chunked(ndjson({"model": payload["model"], **line})))
        await trio.sleep(fake.word_s)
    last = {"model": payload["model"], **lines[-1], "done": True, **fake.last}
    await request.send_raw(chunked(ndjson(last)) + b"0\r\n\r\n")


async def _embed(fake: FakeOllama, request: Request, payload: dict[str, Any]) -> None:
    vectors = [[0.5, -1.0, index] for index in range(len(payload["input"]))]
    await request.respond_json(200, {"model": payload["model"], "embeddings": vectors, "prompt_eval_count": 4})


_ANSWERS: dict[str, Answer] = {"/api/chat": _chat, "/api/generate": _generate, "/api/embed": _embed}


def ndjson(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode() + b"\n"


def chunked(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def raw(data: bytes, *, stay: bool = False, reset: bool = False) -> Script:
    """Send these bytes, then close, or reset, or stay silent until the client leaves."""

    async def script(fake: FakeOllama, request: Request) -> None:
        await request.send_raw(data)
        if reset:
            await trio.sleep(0.01)  # a reset overtakes what is still in the buffers
            request.reset()
        if stay:
            fake.working += 1
            fake.changes.notify()
            await request.hung_up()

    return script


def answers(status: int, body: object, headers: dict[str, str] | None = None) -> Script:
    """Answer with this body: bytes as they are, anything else as JSON."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()

    async def script(fake: FakeOllama, request: Request) -> None:
        await request.respond(status, data, headers)

    return script


def streams(*lines: bytes, end: bytes = b"0\r\n\r\n") -> Script:
    return raw(STREAM_HEAD + b"".join(map(chunked, lines)) + end)


WORD = ndjson({"message": {"role": "assistant", "content": "Grüße ☃"}, "done": False})
LAST = ndjson({"message": {"role": "assistant", "content": ""}, "done": True, "done_reason": "stop", **COUNTS})

_WORD = chunked(WORD)
# Where it can die; what it has sent by then.
DEATHS: dict[str, bytes] = {
    "before the head": b"",
    "in the head": STREAM_HEAD[:30],
    "after the head": STREAM_HEAD,
    "in a chunk's size": STREAM_HEAD + _WORD[:1],
    "in a chunk": STREAM_HEAD + _WORD[:20],
    "in a letter": STREAM_HEAD + _WORD[: _WORD.index("ü".encode()) + 1],
    "between lines": STREAM_HEAD + _WORD,
    "before the end of the body": STREAM_HEAD + _WORD + chunked(LAST[:-20]),
}
