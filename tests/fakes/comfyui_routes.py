"""The fake ComfyUI's routes: what it answers, and the one way to open it."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import parse_qs, urlsplit

import trio

from tests.fakes.comfyui import Behaviour, FakeComfyUI, Job
from tests.fakes.comfyui_nodes import CLASSES, validate
from tests.fakes.http import Request, open_server
from tests.fakes.websocket import Peer


@asynccontextmanager
async def open_fake_comfyui(behaviour: Behaviour | None = None, *, port: int = 0) -> AsyncIterator[FakeComfyUI]:
    """Serve until the block ends; jobs that still run then are dropped."""
    holder: list[FakeComfyUI] = []
    async with open_server(lambda request: _handle(holder[0], request), port=port) as server:
        fake = FakeComfyUI(server, behaviour or Behaviour())
        holder.append(fake)
        server.nursery.start_soon(fake.work)
        yield fake


async def _handle(fake: FakeComfyUI, request: Request) -> None:
    path = request.path.removeprefix("/api")
    fake.requests.append(f"{request.method} {path}")
    fake.changes.notify()
    _, first, _, rest = (path + "///").split("/", 3)
    rest = rest.rstrip("/")
    if request.method == "POST":
        await _handle_post(fake, request, path)
    elif path == "/ws" and fake.behaviour.sockets:
        await _socket(fake, request)
    elif path == "/queue":
        running = [fake.running.entry()] if fake.running else []
        pending = [job.entry() for job in fake.pending]
        await request.respond_json(200, {"queue_running": running, "queue_pending": pending})
    elif first == "history":
        found = {key: value for key, value in fake.history.items() if key == path.split("/")[2]}
        await request.respond_json(200, found)
    elif path == "/view":
        await _view(fake, request)
    elif path == "/models/checkpoints":
        await request.respond_json(200, list(fake.behaviour.checkpoints))
    elif first == "object_info":
        kind = path.split("/")[2]
        await request.respond_json(200, {kind: {"input": CLASSES[kind]}} if kind in CLASSES else {})
    elif path == "/system_stats":
        await request.respond_json(200, {"system": {"comfyui_version": "0.3.75"}, "devices": []})
    else:
        await request.respond(404, b"404: Not Found", {"Content-Type": "text/plain; charset=utf-8"})


async def _handle_post(fake: FakeComfyUI, request: Request, path: str) -> None:
    try:
        if path == "/prompt":
            await _submit(fake, request)
        elif path == "/queue":
            await _delete(fake, request)
        elif path == "/interrupt":
            await _interrupt(fake, request)
        elif path == "/upload/image":
            await _upload(fake, request)
        else:
            await request.respond(405, b"405: Method Not Allowed", {"Content-Type": "text/plain; charset=utf-8"})
    except (ValueError, KeyError, AttributeError):
        said = b"500 Internal Server Error\n\nServer got itself in trouble"
        await request.respond(500, said, {"Content-Type": "text/plain; charset=utf-8"})


async def _view(fake: FakeComfyUI, request: Request) -> None:
    asked = {key: values[0] for key, values in parse_qs(urlsplit(request.target).query).items()}
    name = f"{asked.get('type')}/{asked.get('filename')}"
    fake.viewed.append(name)
    fake.changes.notify()
    await trio.sleep(fake.behaviour.view_s)
    found = fake.files.get(name)
    if found is None:
        await request.respond(404, b"")
    else:
        await request.respond(200, found, {"Content-Type": "image/png"})


async def _upload(fake: FakeComfyUI, request: Request) -> None:
    content = request.header("content-type") or ""
    boundary = b"--" + content.partition("boundary=")[2].encode()
    fields: dict[str, bytes] = {}
    name = ""
    for part in request.body.split(boundary)[1:-1]:
        head, _, value = part.strip(b"\r\n").partition(b"\r\n\r\n")
        field_name = head.split(b'name="')[1].split(b'"')[0].decode()
        fields[field_name] = value
        if b"filename=" in head:
            name = head.split(b'filename="')[1].split(b'"')[0].decode()
    folder, kind = fields.get("subfolder", b"").decode(), fields.get("type", b"input").decode()
    fake.uploads[f"{folder}/{name} [{kind}]"] = fields["image"]
    await request.respond_json(200, {"name": name, "subfolder": folder, "type": kind})


async def _submit(fake: FakeComfyUI, request: Request) -> None:
    asked = request.json()
    if "prompt" not in asked:
        error = {"type": "no_prompt", "message": "No prompt provided", "details": "", "extra_info": {}}
        await request.respond_json(400, {"error": error, "node_errors": {}})
        return
    await trio.sleep(fake.behaviour.registering_s)
    error, node_errors = validate(asked["prompt"], fake.behaviour.checkpoints, fake.uploads)
    if error is not None:
        await request.respond_json(400, {"error": error, "node_errors": node_errors})
        return
    extra = dict(asked.get("extra_data", {}))
    if "client_id" in asked:
        extra["client_id"] = asked["client_id"]
    prompt_id = str(asked["prompt_id"]) if fake.behaviour.takes_ids else f"own-{fake.number}"
    job = Job(prompt_id, fake.number, asked["prompt"], extra)
    fake.number += 1
    fake.graphs.append(asked["prompt"])
    fake.pending.append(job)
    await fake.tell_queue()
    answer = {"prompt_id": job.prompt_id, "number": job.number, "node_errors": node_errors}
    await request.respond_json(200, answer)


async def _delete(fake: FakeComfyUI, request: Request) -> None:
    for prompt_id in request.json().get("delete", ()):
        _note(fake, "delete")
        for job in [one for one in fake.pending if one.prompt_id == prompt_id]:
            fake.pending.remove(job)
            fake.counts.deleted += 1
    if fake.is_idle:
        fake.counts.idle_at = trio.current_time()
    await fake.tell_queue()
    await request.respond(200, b"")


async def _interrupt(fake: FakeComfyUI, request: Request) -> None:
    prompt_id = request.json().get("prompt_id") if request.body else None
    _note(fake, "interrupt")
    if fake.running is not None and prompt_id in (None, fake.running.prompt_id):
        fake.interrupted = True
        fake.interrupted_for = prompt_id
    await request.respond(200, b"")


def _note(fake: FakeComfyUI, control: str) -> None:
    fake.counts.controls.append((trio.current_time(), control))
    fake.changes.notify()


async def _socket(fake: FakeComfyUI, request: Request) -> None:
    client_id = parse_qs(urlsplit(request.target).query).get("clientId", ["anybody"])[0]
    peer = await Peer.over(request)
    fake.sockets[client_id] = peer
    try:
        await peer.send(json.dumps({"type": "status", "data": {**fake.status(), "sid": client_id}}))
        await _listen(fake, peer, client_id)
    finally:
        del fake.sockets[client_id]
        fake.changes.notify()
        fake.flags.pop(client_id, None)


async def _listen(fake: FakeComfyUI, peer: Peer, client_id: str) -> None:
    async for message in peer.messages():
        told = json.loads(message)
        if told.get("type") == "feature_flags" and fake.behaviour.metadata:
            fake.flags[client_id] = told["data"]
            flags = {"supports_preview_metadata": True, "max_upload_size": 104857600}
            await peer.send(json.dumps({"type": "feature_flags", "data": flags}))
