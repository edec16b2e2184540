"""A fake OpenAI-style language server on loopback: answers and streams, or misbehaves in the ways real servers do."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import trio

from tests.fakes.http import Changes, Request, Server, Statistics, open_server

Script = Callable[["FakeOpenAIChat", Request], Awaitable[None]]
OK_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
EVENTS_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
DONE = b"data: [DONE]\n\n"
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


@dataclass
class FakeOpenAIChat:
    """`words`: what it answers, a chunk each. `first_word_s`, `word_s`: the time the first and the others take.

    `script`: what to do instead of a POST's answer, see SCRIPTS. `aborted`: streams given up because the client left.
    """

    server: Server
    words: list[str] = field(default_factory=lambda: ["Hello", " there"])
    first_word_s: float = 0.0
    word_s: float = 0.0
    script: Script | None = None
    models: list[str] = field(default_factory=lambda: ["small", "large"])
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
async def open_fake_openai_chat(*, script: str | Script | None = None, port: int = 0) -> AsyncIterator[FakeOpenAIChat]:
    """Serve until the block ends. `script`: a name out of SCRIPTS, or a function."""
    holder: list[FakeOpenAIChat] = []
    chosen = SCRIPTS[script] if isinstance(script, str) else script
    async with open_server(lambda request: _handle(holder[0], request), port=port) as server:
        holder.append(FakeOpenAIChat(server, script=chosen))
        yield holder[0]


async def _handle(fake: FakeOpenAIChat, request: Request) -> None:
    if request.method == "GET" and request.path == "/v1/models":
        listed = [{"id": name, "object": "model", "created": 7, "owned_by": "fake"} for name in fake.models]
        await request.respond_json(200, {"object": "list", "data": listed})
        return
    answer = _ANSWERS.get(request.path)
    if answer is None or request.method != "POST":
        await request.respond_json(404, {"detail": "Not Found"})
        return
    fake.requests.append(request)
    if fake.script is not None:
        await fake.script(fake, request)
        return
    await _work(fake, request, answer)


async def _work(fake: FakeOpenAIChat, request: Request, answer: "Answer") -> None:
    """Answer in the time that words take; a client that hangs up ends it at once."""
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


Answer = Callable[[FakeOpenAIChat, Request, dict[str, Any]], Awaitable[None]]


async def _chat(fake: FakeOpenAIChat, request: Request, payload: dict[str, Any]) -> None:
    shared = {"id": "chatcmpl-1", "created": 7, "model": payload.get("model", "small")}
    if not payload.get("stream"):
        await trio.sleep(fake.first_word_s + fake.word_s * len(fake.words))
        await request.respond_json(200, chat_answer("".join(fake.words), **shared))
        return
    shared["object"] = "chat.completion.chunk"
    deltas: list[dict[str, str]] = [{"role": "assistant", "content": ""}, *({"content": word} for word in fake.words)]
    chunks = [_chunk(shared, {"index": 0, "delta": delta, "finish_reason": None}) for delta in deltas]
    chunks.append(_chunk(shared, {"index": 0, "delta": {}, "finish_reason": "stop"}))
    await _stream(fake, request, payload, shared, chunks)


async def _completions(fake: FakeOpenAIChat, request: Request, payload: dict[str, Any]) -> None:
    shared = {"id": "cmpl-1", "created": 7, "model": payload.get("model", "small"), "object": "text_completion"}
    if not payload.get("stream"):
        choice = {"index": 0, "text": "".join(fake.words), "finish_reason": "stop"}
        await request.respond_json(200, {**shared, "choices": [choice], "usage": USAGE})
        return
    chunks = [_chunk(shared, {"index": 0, "text": word, "finish_reason": None}) for word in fake.words]
    chunks.append(_chunk(shared, {"index": 0, "text": "", "finish_reason": "stop"}))
    await _stream(fake, request, payload, shared, chunks)


async def _responses(fake: FakeOpenAIChat, request: Request, payload: dict[str, Any]) -> None:
    text = "".join(fake.words)
    message = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]}
    answer = {"id": "resp-1", "object": "response", "status": "completed", "output": [message]}
    if not payload.get("stream"):
        await request.respond_json(200, answer)
        return
    events = [{"type": "response.output_text.delta", "delta": text}, {"type": "response.completed", "response": answer}]
    await request.send_raw(EVENTS_HEAD)
    for number, event in enumerate(events):
        data = json.dumps({**event, "sequence_number": number})
        await request.send_raw(chunked(f"event: {event['type']}\ndata: {data}\n\n".encode()))
    await request.send_raw(b"0\r\n\r\n")


async def _embeddings(fake: FakeOpenAIChat, request: Request, payload: dict[str, Any]) -> None:
    texts = payload["input"] if isinstance(payload["input"], list) else [payload["input"]]
    data = [{"object": "embedding", "index": index, "embedding": [0.5, -1.0]} for index in range(len(texts))]
    await request.respond_json(200, {"object": "list", "data": data, "model": "small", "usage": USAGE})


async def _rerank(fake: FakeOpenAIChat, request: Request, payload: dict[str, Any]) -> None:
    results = [{"index": index, "relevance_score": index / 10} for index in range(len(payload["documents"]))]
    await request.respond_json(200, {"model": "small", "results": results})


_ANSWERS: dict[str, Answer] = {
    "/v1/chat/completions": _chat,
    "/v1/completions": _completions,
    "/v1/responses": _responses,
    "/v1/embeddings": _embeddings,
    "/v1/rerank": _rerank,
}


async def _stream(
    fake: FakeOpenAIChat,
    request: Request,
    payload: dict[str, Any],
    shared: dict[str, Any],
    chunks: list[dict[str, Any]],
) -> None:
    if (payload.get("stream_options") or {}).get("include_usage"):
        chunks.append({**shared, "choices": [], "usage": USAGE})
    await trio.sleep(fake.first_word_s)
    await request.send_raw(EVENTS_HEAD)
    for chunk in chunks:
        await request.send_raw(chunked(event(chunk)))
        await trio.sleep(fake.word_s)
    await request.send_raw(chunked(DONE) + b"0\r\n\r\n")


def _chunk(shared: dict[str, Any], choice: dict[str, Any]) -> dict[str, Any]:
    return {**shared, "choices": [choice]}


def chat_answer(text: str | None, **fields: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return {"object": "chat.completion", "choices": [choice], "usage": USAGE, **fields}


def event(value: object) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def chunked(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


WORD = event({"choices": [{"index": 0, "delta": {"content": "Grüße ☃"}, "finish_reason": None}]}).replace(
    b"\\u2603", "☃".encode()
)
LAST = event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})


def raw(data: bytes, *, stay: bool = False) -> Script:
    """Send these bytes, then close, or stay silent until the client leaves."""

    async def script(fake: FakeOpenAIChat, request: Request) -> None:
        await request.send_raw(data)
        if stay:
            fake.working += 1
            fake.changes.notify()
            await request.hung_up()

    return script


def reset_after(data: bytes) -> Script:
    """Send these bytes, then break the connection off with RST."""

    async def script(fake: FakeOpenAIChat, request: Request) -> None:
        if data:
            await request.send_raw(data)
            await trio.sleep(0.01)  # a reset overtakes what is still in the buffers
        request.reset()

    return script


def answer(status: int, body: object, headers: dict[str, str] | None = None) -> Script:
    """Answer with this body: bytes as they are, anything else as JSON."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()

    async def script(fake: FakeOpenAIChat, request: Request) -> None:
        await request.respond(status, data, headers)

    return script


HTML = b"<html><head><title>502 Bad Gateway</title></head><body><h1>Bad Gateway</h1>nginx</body></html>"
_EVENTS = chunked(WORD) + chunked(LAST)

# The ways of real servers, by name.
SCRIPTS: dict[str, Script] = {
    "no [DONE]": raw(EVENTS_HEAD + _EVENTS + b"0\r\n\r\n"),
    "HTTP/1.0 stream": raw(b"HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + WORD + LAST + DONE),
    "HTTP/1.0 answer": raw(b"HTTP/1.0 200 OK\r\n\r\n" + json.dumps(chat_answer("Hello")).encode()),
    "empty content": answer(200, chat_answer("")),
    "no content": answer(200, chat_answer(None)),
    "ignores stream": answer(200, chat_answer("Hello")),
    "error in a 200": answer(200, {"error": {"message": "slot is busy", "code": 500}}),
    "bare string error": answer(400, b"context too long", {"Content-Type": "text/plain"}),
    "string error": answer(500, {"error": "llama runner died"}),
    "HTML error": answer(502, HTML, {"Content-Type": "text/html"}),
    "nested error": answer(422, {"detail": [{"loc": ["body"], "msg": "field required"}]}),
    "empty error": answer(500, b""),
}

# Where a backend can die; what it has sent by then. The same bytes, then a reset, in RESETS.
DEATHS: dict[str, bytes] = {
    "before the head": b"",
    "in the head": EVENTS_HEAD[:40],
    "after the head": EVENTS_HEAD,
    "in a chunk size": EVENTS_HEAD + chunked(WORD) + b"5",
    "in a chunk": EVENTS_HEAD + chunked(WORD) + chunked(WORD)[:20],
    "in a character": EVENTS_HEAD + chunked(WORD) + chunked(WORD)[: chunked(WORD).index(b"\xe2") + 1],
    "after the last chunk": EVENTS_HEAD + _EVENTS + chunked(DONE),
}
