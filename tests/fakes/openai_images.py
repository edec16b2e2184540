"""A fake OpenAI-style image server: draws after a while, and can be told to misbehave in every way threats.md names."""

import base64
import email
import email.policy
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import trio

from tests.fakes.http import Changes, Request, Server, Statistics, open_server
from tests.fakes.pictures import png

Script = Callable[["FakeOpenAIImages", Request], Awaitable[None]]
OK_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


@dataclass
class FakeOpenAIImages:
    """`drawing_s`: how long a picture takes. `script`: what to do instead, see SCRIPTS.

    `stoppable` False: stable-diffusion.cpp's server, which draws to the end and says what it is in its list of models.
    `streams`: it knows `stream`, and shows `partial_images` at equal parts, each noted in `previewed_at`; `refusal`: what it
    says instead (400) to who asks for a stream. `broken_off`: an error in place of the picture.
    `aborted`: drawings given up because the client hung up; the GPU of this server is free at that moment.
    """

    server: Server
    drawing_s: float = 0.0
    script: Script | None = None
    payloads: list[dict[str, Any]] = field(default_factory=list)
    files: list[list[tuple[str, bytes]]] = field(default_factory=list)
    drawing: int = 0
    drawn: int = 0
    aborted: int = 0
    stoppable: bool = True
    streams: bool = False
    refusal: dict[str, Any] | None = None
    broken_off: bool = False
    preview_side: int = 8
    previewed_at: list[float] = field(default_factory=list)
    extra_fields: dict[str, Any] = field(default_factory=dict)
    changes: Changes = field(default_factory=Changes)

    @property
    def base_url(self) -> str:
        return self.server.base_url

    @property
    def statistics(self) -> Statistics:
        return self.server.statistics

    async def until_drawing(self, number: int = 1) -> None:
        await self.changes.until(lambda: self.drawing >= number)

    def success(self, payload: dict[str, Any]) -> dict[str, Any]:
        width, _, height = payload.get("size", "64x64").partition("x")
        pictures = [
            png(int(width), int(height), text=payload["prompt"], shade=index) for index in range(payload.get("n", 1))
        ]
        return {
            "created": 1,
            "data": [{"b64_json": base64.b64encode(picture).decode()} for picture in pictures],
            "output_format": "png",
            **self.extra_fields,
        }


@asynccontextmanager
async def open_fake_openai_images(
    *, drawing_s: float = 0.0, script: str | Script | None = None, port: int = 0
) -> AsyncIterator[FakeOpenAIImages]:
    """Serve until the block ends. `script`: a name out of SCRIPTS, or a function."""
    holder: list[FakeOpenAIImages] = []
    chosen = SCRIPTS[script] if isinstance(script, str) else script
    async with open_server(lambda request: _handle(holder[0], request), port=port) as server:
        holder.append(FakeOpenAIImages(server, drawing_s, chosen))
        yield holder[0]


async def _handle(fake: FakeOpenAIImages, request: Request) -> None:
    if request.method == "GET" and request.path in ("/v1/models", "/health", "/healthz", "/readyz"):
        await request.respond_json(
            200, {"object": "list", "data": [{"id": "fake" if fake.stoppable else "sd-cpp-local", "object": "model"}]}
        )
        return
    if request.path.startswith("/picture"):
        await request.respond(200, png(8, 8), {"Content-Type": "image/png"})
        return
    if request.path == "/v1/images/edits" and request.method == "POST":
        payload, files = read_form(request)
        fake.payloads.append(payload)
        fake.files.append(files)
        await _answer_to(fake, request, payload, "image_edit")
        return
    if request.path != "/v1/images/generations" or request.method != "POST":
        await request.respond_json(404, {"error": {"message": "Not Found", "type": "invalid_request_error"}})
        return
    payload = request.json()
    fake.payloads.append(payload)
    if fake.script is not None:
        await fake.script(fake, request)
        return
    await _answer_to(fake, request, payload, "image_generation")


async def _answer_to(fake: FakeOpenAIImages, request: Request, payload: dict[str, Any], action: str) -> None:
    asks_for_a_stream = payload.get("stream") in (True, "true")
    if asks_for_a_stream and fake.refusal is not None:
        await request.respond_json(400, fake.refusal)
    elif asks_for_a_stream and fake.streams:
        await _draw(fake, request, partial(_stream, fake, request, payload, action))
    elif await _draw(fake, request, partial(trio.sleep, fake.drawing_s)):
        await request.respond_json(200, fake.success(payload))


async def _stream(fake: FakeOpenAIImages, request: Request, payload: dict[str, Any], action: str) -> None:
    """OpenAI's events, in chunks; nothing follows the picture."""
    wanted = int(payload["partial_images"])
    await request.send_raw(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
    about = {"created_at": 1, "size": payload["size"], "quality": "high", "background": "auto", "output_format": "png"}
    for index in range(wanted):
        await trio.sleep(fake.drawing_s / (wanted + 1))
        preview = base64.b64encode(png(fake.preview_side, fake.preview_side, text="a preview", shade=index)).decode()
        fake.previewed_at.append(trio.current_time())
        more = {"b64_json": preview, "partial_image_index": index}
        await _send_event(request, f"{action}.partial_image", {**about, **more})
    await trio.sleep(fake.drawing_s / (wanted + 1))
    if fake.broken_off:
        await _send_event(request, "error", {"error": {"message": "moderation at /srv/models/x", "code": "x"}})
    else:
        picture = fake.success(payload)["data"][0]["b64_json"]
        usage = {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}
        await _send_event(request, f"{action}.completed", {**about, "b64_json": picture, "usage": usage})
    await request.send_raw(b"0\r\n\r\n")


async def _send_event(request: Request, kind: str, fields: dict[str, Any]) -> None:
    event = f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()
    await request.send_raw(b"%x\r\n%b\r\n" % (len(event), event))


def read_form(request: Request) -> tuple[dict[str, Any], list[tuple[str, bytes]]]:
    """A form as the standard library's mail parser reads it: none of ours. `n` is a number again."""
    head = f"Content-Type: {request.header('content-type')}\r\n\r\n".encode()
    fields: dict[str, Any] = {}
    files: list[tuple[str, bytes]] = []
    for part in email.message_from_bytes(head + request.body, policy=email.policy.HTTP).iter_parts():
        name = str(part.get_param("name", header="content-disposition"))
        content = part.get_payload(decode=True)
        assert isinstance(content, bytes)
        if part.get_filename() is None:
            fields[name] = int(content) if name == "n" else content.decode()
        else:
            files.append((name, content))
    return fields, files


async def _draw(fake: FakeOpenAIImages, request: Request, work: Callable[[], Awaitable[None]]) -> bool:
    """Take the time of a drawing; a client that hangs up ends it at once."""
    fake.drawing += 1
    fake.changes.notify()
    done = False
    async with trio.open_nursery() as nursery:

        async def watch() -> None:
            await request.hung_up()
            nursery.cancel_scope.cancel()

        if fake.stoppable:
            nursery.start_soon(watch)
        await work()
        done = True
        nursery.cancel_scope.cancel()
    fake.drawing -= 1
    fake.drawn += done
    fake.aborted += not done
    fake.changes.notify()
    return done


def _raw(data: bytes, *, stay: bool = False) -> Script:
    """Send these bytes, then close, or stay silent until the client leaves."""

    async def script(fake: FakeOpenAIImages, request: Request) -> None:
        await request.send_raw(data)
        if stay:
            await request.hung_up()

    return script


def _answer(status: int, body: bytes, headers: dict[str, str] | None = None) -> Script:
    async def script(fake: FakeOpenAIImages, request: Request) -> None:
        await request.respond(status, body, headers)

    return script


def _reset_after(data: bytes) -> Script:
    async def script(fake: FakeOpenAIImages, request: Request) -> None:
        if data:
            await request.send_raw(data)
            await trio.sleep(0.01)  # a reset overtakes what is still in the buffers
        request.reset()

    return script


async def _endless_body(fake: FakeOpenAIImages, request: Request) -> None:
    await request.send_raw(OK_HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
    while True:
        await request.send_raw(b"10000\r\n" + b" " * 65536 + b"\r\n")


async def _dripping_body(fake: FakeOpenAIImages, request: Request) -> None:
    """A byte at a time, each just within any idle deadline: only a total deadline ends it."""
    await request.send_raw(OK_HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
    while True:
        await request.send_raw(b"1\r\n \r\n")
        await trio.sleep(1)


async def _endless_informational(fake: FakeOpenAIImages, request: Request) -> None:
    while True:
        await request.send_raw(b"HTTP/1.1 102 Processing\r\n\r\n")
        await trio.sleep(1)


def _picture(data: object) -> Script:
    async def script(fake: FakeOpenAIImages, request: Request) -> None:
        await request.respond_json(200, {"created": 1, "data": [{"b64_json": data}]})

    return script


def _url(url: str) -> Script:
    async def script(fake: FakeOpenAIImages, request: Request) -> None:
        await request.respond_json(200, {"created": 1, "data": [{"url": url.replace("SELF", fake.base_url)}]})

    return script


_PNG = base64.b64encode(png(8, 8)).decode()
_HTML = b"<html><head><title>502 Bad Gateway</title></head><body><h1>Bad Gateway</h1>nginx</body></html>"

# What the gateway must answer 502 to, whatever comes.
HOSTILE: dict[str, Script] = {
    "huge header": _raw(OK_HEAD + b"X: " + b"a" * 200_000 + b"\r\n\r\n"),
    "large headers": _raw(OK_HEAD + b"Content-Length: 2\r\n" + b"X: " + b"a" * 50_000 + b"\r\n\r\n{}"),
    "many headers": _raw(OK_HEAD + b"".join(b"X-%d: a\r\n" % n for n in range(500)) + b"\r\n"),
    "endless body": _endless_body,
    "length beyond the cap": _raw(OK_HEAD + b"Content-Length: 99999999999\r\n\r\n" + b" " * 1_000_000, stay=True),
    "bad chunk size": _raw(OK_HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n"),
    "length and chunks": _raw(OK_HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n{}"),
    "body cut short": _raw(OK_HEAD + b"Content-Length: 50\r\n\r\n{}"),
    "not HTTP": _raw(b"SSH-2.0-OpenSSH_9.6\r\n"),
    "nothing at all": _raw(b""),
    "HTTP/2 preface": _raw(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "switching protocols": _raw(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"),
    "gzip": _answer(200, b"\x1f\x8b\x08\x00", {"Content-Encoding": "gzip"}),
    "redirect": _answer(302, b"", {"Location": "http://127.0.0.1:1/"}),
    "invalid JSON": _answer(200, b'{"data": ['),
    "not UTF-8": _answer(200, b'{"data": ["\xff"]}'),
    "a list": _answer(200, b"[]"),
    "nested lists": _answer(200, b'{"data":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "no data": _answer(200, b'{"created": 1}'),
    "empty data": _answer(200, b'{"data": []}'),
    "data of strings": _answer(200, b'{"data": ["x"]}'),
    "HTML success": _answer(200, _HTML, {"Content-Type": "text/html"}),
    "empty base64": _picture(""),
    "a number for base64": _picture(5),
    "bad base64": _picture(_PNG[:-4] + "!!!!"),
    "base64 with newlines": _picture(_PNG[:20] + "\n" + _PNG[20:]),
    "base64 without padding": _picture(base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"x" * 6).decode().rstrip("=")),
    "data URL": _picture("data:image/png;base64," + _PNG),
    "wrong magic": _picture(base64.b64encode(b"GIF89a" + b"\x00" * 50).decode()),
    "an SVG": _picture(base64.b64encode(b"<svg xmlns='http://www.w3.org/2000/svg'/>").decode()),
    "a cut PNG": _picture(base64.b64encode(png(8, 8)[:-9]).decode()),
    "foreign URL": _url("http://127.0.0.1:1/secret.png"),
    "metadata URL": _url("http://169.254.169.254/latest/meta-data"),
    "file URL": _url("file:///etc/passwd"),
    "userinfo trick URL": _url("http://127.0.0.1@127.0.0.2:1/x.png"),
    "500 HTML": _answer(500, _HTML, {"Content-Type": "text/html"}),
    "503": _answer(503, b'{"error":{"message":"loading"}}'),
    "401": _answer(401, b'{"error":"bad key sk-abcdefghijklmnopqrstuvwx"}'),
    "reset before the head": _reset_after(b""),
    "reset in the head": _reset_after(OK_HEAD),
    "reset in the body": _reset_after(OK_HEAD + b"Content-Length: 50\r\n\r\n{"),
}

# What the gateway must answer 504 to.
STALLS: dict[str, Script] = {
    "silence": _raw(b"", stay=True),
    "half a head": _raw(OK_HEAD, stay=True),
    "half a body": _raw(OK_HEAD + b"Content-Length: 50\r\n\r\n{", stay=True),
    "no end of chunks": _raw(OK_HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n", stay=True),
    "dripping body": _dripping_body,
    "endless informational answers": _endless_informational,
}

# What must come out as the client's own fault, with its status.
REFUSALS: dict[str, Script] = {
    "400 bare string": _answer(400, b'{"error":"prompt required"}'),
    "400 OpenAI": _answer(400, b'{"error":{"message":"Unknown parameter: foo","type":"invalid_request_error"}}'),
    "404 model": _answer(404, b'{"error":{"message":"The model does not exist","code":"model_not_found"}}'),
    "413": _answer(413, b""),
    "422 FastAPI": _answer(422, b'{"detail":[{"loc":["body","size"],"msg":"bad size","type":"value_error"}]}'),
    "429 busy": _answer(429, b'{"error":"job queue is full"}', {"Retry-After": "7"}),
}

GOOD: dict[str, Script] = {
    "HTTP/1.0": _raw(
        b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n" + b'{"data":[{"b64_json":"%s"}]}' % _PNG.encode()
    ),
    "own URL": _url("SELF/picture.png"),
    "relative URL": _url("/picture.png"),
}

SCRIPTS = {**HOSTILE, **STALLS, **REFUSALS, **GOOD}
