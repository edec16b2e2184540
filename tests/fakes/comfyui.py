"""A fake ComfyUI: one worker, one interrupt flag that each start resets, jobs known by id, a socket for each client.

Behaves as `server.py` and `execution.py` of ComfyUI 0.3.75 were seen to do; tests/real/test_comfyui_real.py asks both.
"""

import io
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

import trio
from PIL import Image as Pillow

from tests.fakes.comfyui_nodes import CLASSES, number_of, size_of, validate
from tests.fakes.http import GONE, Changes, Request, Server, Statistics, open_server
from tests.fakes.pictures import png
from tests.fakes.websocket import Peer

CHECKPOINTS = ("base.safetensors", "turbo.safetensors", "sub/paint_xl.safetensors")


@dataclass
class Behaviour:
    """What a test may turn. Seconds on trio's clock.

    `registering_s`: from the whole request to its place in the queue; `starting_s`: from there to the reset of the
    interrupt flag; `encode_s`: a node that looks at no flag. `previews`: --preview-method. `sockets` False: a proxy that
    knows no WebSockets. `fail_with`: what drawing raises. `outputs` False: nothing comes of a success. `metadata` False:
    an older server, whose previews say not whose they are. `takes_ids` False: an older one still.
    """

    step_s: float = 0.1
    encode_s: float = 0.0
    view_s: float = 0.0
    registering_s: float = 0.0
    starting_s: float = 0.0
    previews: bool = False
    sockets: bool = True
    outputs: bool = True
    metadata: bool = True
    takes_ids: bool = True
    fail_with: str | None = None
    checkpoints: tuple[str, ...] = CHECKPOINTS


@dataclass
class Counts:
    """`foreign_kills`: jobs that were ended while their client was still listening for them."""

    started: int = 0
    finished: int = 0
    interrupted: int = 0
    deleted: int = 0
    foreign_kills: int = 0
    controls: list[tuple[float, str]] = field(default_factory=list)
    idle_at: float = 0.0


@dataclass
class _Job:
    prompt_id: str
    number: int
    graph: dict[str, Any]
    extra: dict[str, Any]

    @property
    def client_id(self) -> str | None:
        return self.extra.get("client_id")

    def entry(self) -> list[Any]:
        return [self.number, self.prompt_id, self.graph, self.extra, []]


class _Interrupted(Exception):
    pass


@dataclass
class FakeComfyUI:
    """`graphs`: what was submitted, in order. `is_idle`: nothing runs, nothing waits. `uploads`: bytes by name.

    `deaf`: nothing is told on any socket any more.
    """

    server: Server
    behaviour: Behaviour
    counts: Counts = field(default_factory=Counts)
    graphs: list[dict[str, Any]] = field(default_factory=list)
    pending: list[_Job] = field(default_factory=list)
    running: _Job | None = None
    history: dict[str, Any] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    uploads: dict[str, bytes] = field(default_factory=dict)
    sockets: dict[str, Peer] = field(default_factory=dict)
    changes: Changes = field(default_factory=Changes)
    requests: list[str] = field(default_factory=list)
    viewed: list[str] = field(default_factory=list)
    deaf: bool = False
    _interrupt: bool = False
    _number: int = 0
    _flags: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def base_url(self) -> str:
        return self.server.base_url

    @property
    def statistics(self) -> Statistics:
        return self.server.statistics

    @property
    def is_idle(self) -> bool:
        return self.running is None and not self.pending

    @property
    def payloads(self) -> list[dict[str, Any]]:
        """What was submitted, under the names that a client gave it."""
        return [_told(graph) for graph in self.graphs]

    async def until_active(self) -> None:
        await self.changes.until(lambda: self.running is not None)

    async def until_queued(self, number: int = 1) -> None:
        await self.changes.until(lambda: len(self.pending) >= number)

    async def until_idle(self) -> None:
        await self.changes.until(lambda: self.is_idle)

    async def work(self) -> None:
        """The prompt worker: one job after the other, for ever."""
        while True:
            await self.changes.until(lambda: bool(self.pending))
            job = self.running = self.pending.pop(0)
            self.counts.started += 1
            await self._tell_queue()
            await trio.sleep(self.behaviour.starting_s)
            self._interrupt = False
            messages = [["execution_start", _stamped(job)]]
            outputs = await self._execute(job, messages)
            self.running = None
            if self.is_idle:
                self.counts.idle_at = trio.current_time()
            ended = "success" if messages[-1][0] == "execution_success" else "error"
            self.history[job.prompt_id] = {
                "prompt": job.entry(),
                "outputs": outputs,
                "status": {"status_str": ended, "completed": ended == "success", "messages": messages},
                "meta": {},
            }
            await self._tell_queue()
            await self._tell(job, "executing", {"node": None, "prompt_id": job.prompt_id})

    async def _execute(self, job: _Job, messages: list[Any]) -> dict[str, Any]:
        about = _stamped(job, node_id="sampler", node_type="KSampler", executed=[])
        await self._tell(job, *messages[0])
        try:
            await self._sample(job)
            outputs = self._save(job)
            self.counts.finished += 1
            messages.append(["execution_success", _stamped(job)])
        except _Interrupted:
            self.counts.interrupted += 1
            outputs = {}
            messages.append(["execution_interrupted", about])
        except RuntimeError as error:
            outputs = {}
            trouble = {"exception_message": f"{error}\n", "exception_type": "RuntimeError", "current_inputs": {}}
            where = ['  File "/srv/ComfyUI/execution.py", line 510, in execute\n']
            messages.append(["execution_error", {**about, **trouble, "traceback": where, "current_outputs": []}])
        await self._tell(job, *messages[-1])
        return outputs

    async def _sample(self, job: _Job) -> None:
        if self.behaviour.fail_with is not None:
            raise RuntimeError(self.behaviour.fail_with)
        sampler = next((node for node in job.graph.values() if node["class_type"] == "KSampler"), None)
        steps = sampler["inputs"]["steps"] if sampler else 0
        await self._tell(job, "executing", {"node": "sampler", "prompt_id": job.prompt_id})
        for step in range(steps):
            await trio.sleep(self.behaviour.step_s)
            self._check_interrupt()
            await self._tell_preview(job)
            about = {"value": step + 1, "max": steps, "prompt_id": job.prompt_id, "node": "sampler"}
            await self._tell(job, "progress", about)
        await trio.sleep(self.behaviour.encode_s)
        self._check_interrupt()

    def _check_interrupt(self) -> None:
        if self._interrupt:
            self._interrupt = False
            raise _Interrupted

    def _save(self, job: _Job) -> dict[str, Any]:
        outputs: dict[str, Any] = {}
        if not self.behaviour.outputs:
            return outputs
        for node, content in job.graph.items():
            kind = {"PreviewImage": "temp", "SaveImage": "output"}.get(content["class_type"])
            if kind is None:
                continue
            images = []
            for index in range(number_of(job.graph)):
                name = f"{kind}_{job.number:05}_{node}_{index:05}_.png"
                seed = next((one["inputs"].get("seed", 0) for one in job.graph.values() if "seed" in one["inputs"]), 0)
                self.files[f"{kind}/{name}"] = png(*size_of(job.graph), text=json.dumps(job.graph), shade=seed + index)
                images.append({"filename": name, "subfolder": "", "type": kind})
            outputs[node] = {"images": images}
        return outputs

    async def submit(self, request: Request) -> None:
        asked = request.json()
        if "prompt" not in asked:
            error = {"type": "no_prompt", "message": "No prompt provided", "details": "", "extra_info": {}}
            await request.respond_json(400, {"error": error, "node_errors": {}})
            return
        await trio.sleep(self.behaviour.registering_s)
        error, node_errors = validate(asked["prompt"], self.behaviour.checkpoints, self.uploads)
        if error is not None:
            await request.respond_json(400, {"error": error, "node_errors": node_errors})
            return
        extra = dict(asked.get("extra_data", {}))
        if "client_id" in asked:
            extra["client_id"] = asked["client_id"]
        prompt_id = str(asked["prompt_id"]) if self.behaviour.takes_ids else f"own-{self._number}"
        job = _Job(prompt_id, self._number, asked["prompt"], extra)
        self._number += 1
        self.graphs.append(asked["prompt"])
        self.pending.append(job)
        await self._tell_queue()
        answer = {"prompt_id": job.prompt_id, "number": job.number, "node_errors": node_errors}
        await request.respond_json(200, answer)

    async def delete(self, request: Request) -> None:
        for prompt_id in request.json().get("delete", ()):
            self._note("delete")
            for job in [one for one in self.pending if one.prompt_id == prompt_id]:
                self.pending.remove(job)
                self._ended_from_outside(job)
                self.counts.deleted += 1
        if self.is_idle:
            self.counts.idle_at = trio.current_time()
        await self._tell_queue()
        await request.respond(200, b"")

    async def interrupt(self, request: Request) -> None:
        prompt_id = request.json().get("prompt_id") if request.body else None
        self._note("interrupt")
        if self.running is not None and prompt_id in (None, self.running.prompt_id):
            self._interrupt = True
            self._ended_from_outside(self.running)
        await request.respond(200, b"")

    def _note(self, control: str) -> None:
        self.counts.controls.append((trio.current_time(), control))

    def _ended_from_outside(self, job: _Job) -> None:
        if job.client_id in self.sockets:
            self.counts.foreign_kills += 1

    async def socket(self, request: Request) -> None:
        client_id = parse_qs(urlsplit(request.target).query).get("clientId", ["anybody"])[0]
        peer = await Peer.over(request)
        self.sockets[client_id] = peer
        try:
            await peer.send(json.dumps({"type": "status", "data": {**self._status(), "sid": client_id}}))
            await self._listen(peer, client_id)
        finally:
            del self.sockets[client_id]
            self._flags.pop(client_id, None)

    async def _listen(self, peer: Peer, client_id: str) -> None:
        async for message in peer.messages():
            told = json.loads(message)
            if told.get("type") == "feature_flags" and self.behaviour.metadata:
                self._flags[client_id] = told["data"]
                flags = {"supports_preview_metadata": True, "max_upload_size": 104857600}
                await peer.send(json.dumps({"type": "feature_flags", "data": flags}))

    def _status(self) -> dict[str, Any]:
        waiting = len(self.pending) + (self.running is not None)
        return {"status": {"exec_info": {"queue_remaining": waiting}}}

    async def _tell_queue(self) -> None:
        self.changes.notify()
        await self._send_to(list(self.sockets), json.dumps({"type": "status", "data": self._status()}))

    async def _tell(self, job: _Job, kind: str, data: dict[str, Any]) -> None:
        await self._send_to(self._listeners(job), json.dumps({"type": kind, "data": data}))

    async def _tell_preview(self, job: _Job) -> None:
        method = job.extra.get("preview_method", "default")
        if method == "none" or (method == "default" and not self.behaviour.previews):
            return
        picture = jpeg()
        about = json.dumps({"node_id": "sampler", "prompt_id": job.prompt_id, "image_type": "image/jpeg"}).encode()
        for client_id in self._listeners(job):
            old = (1).to_bytes(4, "big") * 2 + picture
            new = (4).to_bytes(4, "big") + len(about).to_bytes(4, "big") + about + picture
            flags = self._flags.get(client_id, {})
            await self._send_to([client_id], new if flags.get("supports_preview_metadata") else old)

    def _listeners(self, job: _Job) -> list[str]:
        """A job without a client_id is told to everybody."""
        return list(self.sockets) if job.client_id is None else [job.client_id]

    async def _send_to(self, client_ids: list[str], message: str | bytes) -> None:
        for client_id in client_ids:
            if client_id in self.sockets and not self.deaf:
                with suppress(*GONE):
                    await self.sockets[client_id].send(message)


def _stamped(job: _Job, **more: Any) -> dict[str, Any]:
    return {"prompt_id": job.prompt_id, **more, "timestamp": int(trio.current_time() * 1000)}


def jpeg() -> bytes:
    """A small whole JPEG."""
    sink = io.BytesIO()
    Pillow.new("RGB", (8, 8), "red").save(sink, format="JPEG")
    return sink.getvalue()


def _told(graph: dict[str, Any]) -> dict[str, Any]:
    names = {"cfg": "cfg_scale"}
    sampler = graph.get("sampler", {}).get("inputs", {})
    negative = graph.get("negative", {}).get("inputs", {})
    told = {names.get(key, key): value for key, value in sampler.items() if not isinstance(value, list)}
    return {**told, "negative_prompt": negative.get("text", negative.get("text_g"))}


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
        await fake.socket(request)
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
            await fake.submit(request)
        elif path == "/queue":
            await fake.delete(request)
        elif path == "/interrupt":
            await fake.interrupt(request)
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


__all__ = ["Behaviour", "Counts", "FakeComfyUI", "open_fake_comfyui"]
