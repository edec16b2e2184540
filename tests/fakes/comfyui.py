"""A fake ComfyUI: one worker, one interrupt flag that each start resets, jobs known by id, a socket for each client.

Behaves as `server.py` and `execution.py` of ComfyUI 0.3.75 were seen to do; tests/real/test_comfyui_real.py asks both.
"""

import io
import json
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import trio
from PIL import Image as Pillow

from tests.fakes.comfyui_nodes import number_of, size_of
from tests.fakes.http import GONE, Changes, Server, Statistics
from tests.fakes.pictures import png
from tests.fakes.websocket import Peer

CHECKPOINTS = ("base.safetensors", "turbo.safetensors", "sub/paint_xl.safetensors")


@dataclass
class Behaviour:
    """What a test may turn. Seconds on trio's clock.

    `registering_s`: from the whole request to its place in the queue; `starting_s`: from there to the reset of the
    interrupt flag; `encode_s`: a node that looks at no flag. `previews`: --preview-method. `sockets` False: a proxy that
    knows no WebSockets. `fail_with`: what drawing raises. `outputs` False: nothing comes of a success. `metadata` False:
    an older server, whose previews say not whose they are. `takes_ids` False: an older one still. `preview_side`: in
    pixels, 512 at most on the real one.
    """

    step_s: float = 0.1
    encode_s: float = 0.0
    view_s: float = 0.0
    registering_s: float = 0.0
    starting_s: float = 0.0
    previews: bool = False
    preview_side: int = 8
    sockets: bool = True
    outputs: bool = True
    metadata: bool = True
    takes_ids: bool = True
    fail_with: str | None = None
    checkpoints: tuple[str, ...] = CHECKPOINTS


@dataclass
class Counts:
    """`foreign_kills`: jobs that an interrupt ended which named another one, or none."""

    started: int = 0
    finished: int = 0
    interrupted: int = 0
    deleted: int = 0
    foreign_kills: int = 0
    controls: list[tuple[float, str]] = field(default_factory=list)
    idle_at: float = 0.0


@dataclass
class Job:
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

    `previewed_at`: when each preview of a job was there. `deaf`: nothing is told on any socket any more.
    """

    server: Server
    behaviour: Behaviour
    counts: Counts = field(default_factory=Counts)
    graphs: list[dict[str, Any]] = field(default_factory=list)
    pending: list[Job] = field(default_factory=list)
    running: Job | None = None
    history: dict[str, Any] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    uploads: dict[str, bytes] = field(default_factory=dict)
    sockets: dict[str, Peer] = field(default_factory=dict)
    changes: Changes = field(default_factory=Changes)
    requests: list[str] = field(default_factory=list)
    viewed: list[str] = field(default_factory=list)
    previewed_at: list[float] = field(default_factory=list)
    deaf: bool = False
    interrupted: bool = False
    interrupted_for: str | None = None
    number: int = 0
    flags: dict[str, dict[str, Any]] = field(default_factory=dict)

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
            await self.tell_queue()
            await trio.sleep(self.behaviour.starting_s)
            self.interrupted = False
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
            await self.tell_queue()
            await self._tell(job, "executing", {"node": None, "prompt_id": job.prompt_id})

    async def _execute(self, job: Job, messages: list[Any]) -> dict[str, Any]:
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

    async def _sample(self, job: Job) -> None:
        if self.behaviour.fail_with is not None:
            raise RuntimeError(self.behaviour.fail_with)
        sampler = next((node for node in job.graph.values() if node["class_type"] == "KSampler"), None)
        steps = sampler["inputs"]["steps"] if sampler else 0
        await self._tell(job, "executing", {"node": "sampler", "prompt_id": job.prompt_id})
        for step in range(steps):
            await trio.sleep(self.behaviour.step_s)
            self._check_interrupt(job)
            about = {"value": step + 1, "max": steps, "prompt_id": job.prompt_id, "node": "sampler"}
            state = {**about, "state": "running", "node_id": "sampler"}
            await self._tell(job, "progress_state", {"prompt_id": job.prompt_id, "nodes": {"sampler": state}})
            await self._tell_preview(job)
            await self._tell(job, "progress", about)
        await trio.sleep(self.behaviour.encode_s)
        self._check_interrupt(job)

    def _check_interrupt(self, job: Job) -> None:
        if self.interrupted:
            self.interrupted = False
            self.counts.foreign_kills += self.interrupted_for != job.prompt_id
            raise _Interrupted

    def _save(self, job: Job) -> dict[str, Any]:
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

    def status(self) -> dict[str, Any]:
        waiting = len(self.pending) + (self.running is not None)
        return {"status": {"exec_info": {"queue_remaining": waiting}}}

    async def tell_queue(self) -> None:
        self.changes.notify()
        await self._send_to(list(self.sockets), json.dumps({"type": "status", "data": self.status()}))

    async def _tell(self, job: Job, kind: str, data: dict[str, Any]) -> None:
        await self._send_to(self._listeners(job), json.dumps({"type": kind, "data": data}))

    async def _tell_preview(self, job: Job) -> None:
        method = job.extra.get("preview_method", "default")
        if method == "none" or (method == "default" and not self.behaviour.previews):
            return
        picture = jpeg(self.behaviour.preview_side)
        self.previewed_at.append(trio.current_time())
        about = json.dumps({"node_id": "sampler", "prompt_id": job.prompt_id, "image_type": "image/jpeg"}).encode()
        for client_id in self._listeners(job):
            old = (1).to_bytes(4, "big") * 2 + picture
            new = (4).to_bytes(4, "big") + len(about).to_bytes(4, "big") + about + picture
            flags = self.flags.get(client_id, {})
            await self._send_to([client_id], new if flags.get("supports_preview_metadata") else old)

    def _listeners(self, job: Job) -> list[str]:
        """A job without a client_id is told to everybody."""
        return list(self.sockets) if job.client_id is None else [job.client_id]

    async def _send_to(self, client_ids: list[str], message: str | bytes) -> None:
        for client_id in client_ids:
            if client_id in self.sockets and not self.deaf:
                with suppress(*GONE):
                    await self.sockets[client_id].send(message)


def _stamped(job: Job, **more: Any) -> dict[str, Any]:
    return {"prompt_id": job.prompt_id, **more, "timestamp": int(trio.current_time() * 1000)}


def jpeg(side: int = 8) -> bytes:
    """A whole JPEG; a large one has as many bytes as one of a photograph."""
    sink = io.BytesIO()
    picture = Pillow.new("RGB", (8, 8), "red") if side == 8 else Pillow.effect_noise((side, side), 32)
    picture.save(sink, format="JPEG")
    return sink.getvalue()


def _told(graph: dict[str, Any]) -> dict[str, Any]:
    names = {"cfg": "cfg_scale"}
    sampler = graph.get("sampler", {}).get("inputs", {})
    negative = graph.get("negative", {}).get("inputs", {})
    told = {names.get(key, key): value for key, value in sampler.items() if not isinstance(value, list)}
    return {**told, "negative_prompt": negative.get("text", negative.get("text_g"))}
