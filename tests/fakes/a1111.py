"""A fake A1111: one queue lock, one interrupt flag that each start resets, jobs that outlive their client's connection.

Behaves as `modules/progress.py` and `modules/api/api.py` of A1111 1.10 do. `webuiapi` speaks to it as to the real one.
"""

import base64
import json
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import trio

from tests.fakes.a1111_state import State
from tests.fakes.http import Changes, Request, Server, Statistics, open_server
from tests.fakes.pictures import png

SAMPLERS = ("Euler", "Euler a", "DPM++ 2M")
SCHEDULERS = ("automatic", "karras")
MODELS = ("base-xl.safetensors", "turbo-xl.safetensors")
KNOWN_AFTERWARDS = 16  # finished tasks that A1111 remembers


@dataclass
class Behaviour:
    """What a test may turn. Seconds on trio's clock.

    `registering_s`: from the whole request to its place in the queue; `tracked`: /internal/progress exists (not with
    `--nowebui`); `observable`: /sdapi/v1/progress exists; `fail_with`: what drawing raises, as a 500.
    """

    step_s: float = 0.1
    encode_s: float = 0.0
    registering_s: float = 0.0
    tracked: bool = True
    observable: bool = True
    grid_first: bool = False
    fail_with: str | None = None
    credentials: str | None = None


@dataclass
class Counts:
    """`foreign_kills`: jobs that an interrupt cut while their client was still waiting for them."""

    started: int = 0
    finished: int = 0
    interrupted: int = 0
    foreign_kills: int = 0
    interrupts_received: int = 0
    looks: int = 0


@dataclass
class FakeA1111:
    """`payloads`: the bodies of txt2img in the order they came. `is_idle`: nothing runs, nothing waits."""

    server: Server
    behaviour: Behaviour
    counts: Counts = field(default_factory=Counts)
    payloads: list[dict[str, Any]] = field(default_factory=list)
    current_task: str | None = None
    pending: dict[str, Request] = field(default_factory=dict)
    finished: deque[str] = field(default_factory=lambda: deque(maxlen=KNOWN_AFTERWARDS))
    steps_between_previews: int = 10
    previewed_at: list[float] = field(default_factory=list)
    _state: State = field(default_factory=State)
    _lock: trio.Lock = field(default_factory=trio.Lock)
    _client: Request | None = None
    _changes: Changes = field(default_factory=Changes)

    @property
    def base_url(self) -> str:
        return self.server.base_url

    @property
    def statistics(self) -> Statistics:
        return self.server.statistics

    @property
    def is_idle(self) -> bool:
        return not self._lock.locked() and not self.pending

    async def until_active(self) -> None:
        await self._changes.until(lambda: self.current_task is not None)

    async def until_queued(self, number: int = 1) -> None:
        await self._changes.until(lambda: len(self.pending) >= number)

    async def until_idle(self) -> None:
        await self._changes.until(lambda: self.is_idle)

    async def draw(self, request: Request, answered: trio.Event, answer: dict[str, Any]) -> None:
        """One job, from the queue to its answer; runs on when the client has gone."""
        payload = request.json()
        task = payload.get("force_task_id") or f"task({id(request):x})"
        await trio.sleep(self.behaviour.registering_s)
        self.pending[task] = request
        self._changes.notify()
        async with self._lock:
            self.counts.started += 1
            self._state.begin("scripts_txt2img")
            self.current_task, self._client = task, request
            del self.pending[task]
            self._changes.notify()
            if self.behaviour.fail_with is not None:
                answer |= {"error": "RuntimeError", "detail": "", "body": "", "errors": self.behaviour.fail_with}
            else:
                await self._sample(payload)
                answer |= _success(payload, self.behaviour)
                self.current_task = None
                self.finished.append(task)
            self._client = None
            self._state.end()
        answered.set()
        self._changes.notify()

    async def _sample(self, payload: dict[str, Any]) -> None:
        overridden = payload.get("override_settings", {})
        self.steps_between_previews = overridden.get("show_progress_every_n_steps", 10)
        self._state.job_count = payload.get("n_iter", 1)
        self._state.sampling_steps = payload.get("steps", 50)
        while self._state.sampling_step < self._state.sampling_steps:
            await trio.sleep(self.behaviour.step_s)
            if self._state.interrupted:
                self.counts.interrupted += 1
                return
            self._state.sampling_step += 1
        await trio.sleep(self.behaviour.encode_s)
        self.counts.finished += 1

    def interrupt(self) -> None:
        self.counts.interrupts_received += 1
        self._state.interrupted = True
        if self._client is not None and not self._client.is_hung_up():
            self.counts.foreign_kills += 1

    def progress_of(self, question: dict[str, Any]) -> dict[str, Any]:
        self.counts.looks += 1
        task, known_id = question.get("id_task"), question.get("id_live_preview", -1)
        active = task is not None and task == self.current_task
        known = {"active": active, "queued": task in self.pending, "completed": task in self.finished}
        if not active:
            return {**known, "progress": None, "eta": None, "id_live_preview": -1, "textinfo": "Waiting..."}
        progress, eta = self._progress()
        if question.get("live_preview", True):
            self._render_preview()
        state = self._state
        new = state.preview is not None and state.id_live_preview != known_id
        return {
            **known,
            "progress": progress,
            "eta": eta,
            "live_preview": "data:image/png;base64," + base64.b64encode(state.preview or b"").decode() if new else None,
            "id_live_preview": state.id_live_preview if new else known_id,
            "textinfo": None,
        }

    def _render_preview(self) -> None:
        """Only when asked, and only some steps after the last, as `State.set_current_image` does."""
        state = self._state
        if state.sampling_step - state.previewed_step >= self.steps_between_previews:
            state.previewed_step = state.sampling_step
            state.id_live_preview += 1
            state.preview = png(8, 8, text="the prompt", shade=state.sampling_step)
            self.previewed_at.append(trio.current_time())

    def progress(self) -> dict[str, Any]:
        state = self._state
        progress, eta = self._progress()
        return {
            "progress": progress,
            "eta_relative": eta or 0.0,
            "state": {
                "skipped": False,
                "interrupted": state.interrupted,
                "job": state.job,
                "job_count": state.job_count,
                "job_no": 0,
                "sampling_step": state.sampling_step,
                "sampling_steps": state.sampling_steps,
            },
            "current_image": None,
            "textinfo": None,
        }

    def _progress(self) -> tuple[float, float | None]:
        state = self._state
        if not state.job_count or not state.sampling_step:
            return 0, None
        progress = min(1.0, state.sampling_step / max(1, state.sampling_steps))
        elapsed = trio.current_time() - state.time_start
        return progress, elapsed / progress - elapsed


def _success(payload: dict[str, Any], behaviour: Behaviour) -> dict[str, Any]:
    seed = payload.get("seed", -1)
    first_seed = 4242 if seed == -1 else seed
    width, height = payload.get("width", 512), payload.get("height", 512)
    number = payload.get("batch_size", 1) * payload.get("n_iter", 1)
    text = f"{payload['prompt']}\nSteps: {payload.get('steps')}"
    images = [png(width, height, text=text, shade=first_seed + index) for index in range(number)]
    if behaviour.grid_first and number > 1:
        images.insert(0, png(width * 2, height * 2))
    info = {
        "prompt": payload["prompt"],
        "seed": first_seed,
        "all_seeds": [first_seed + index for index in range(number)],
        "index_of_first_image": 1 if behaviour.grid_first and number > 1 else 0,
        "infotexts": [text],
    }
    shown = images if payload.get("send_images", True) else []
    return {
        "images": [base64.b64encode(image).decode() for image in shown],
        "parameters": payload,
        "info": json.dumps(info),
    }


@asynccontextmanager
async def open_fake_a1111(behaviour: Behaviour | None = None, *, port: int = 0) -> AsyncIterator[FakeA1111]:
    """Serve until the block ends; jobs that still run then are dropped."""
    holder: list[FakeA1111] = []
    async with open_server(lambda request: _handle(holder[0], request), port=port) as server:
        holder.append(FakeA1111(server, behaviour or Behaviour()))
        yield holder[0]


async def _handle(fake: FakeA1111, request: Request) -> None:
    behaviour = fake.behaviour
    tables = {
        ("GET", "/sdapi/v1/samplers"): [{"name": name, "aliases": [], "options": {}} for name in SAMPLERS],
        ("GET", "/sdapi/v1/schedulers"): [{"name": name, "label": name.title()} for name in SCHEDULERS],
        ("GET", "/sdapi/v1/sd-models"): [{"title": name, "model_name": name, "hash": "0" * 10} for name in MODELS],
        ("GET", "/sdapi/v1/options"): {"sd_model_checkpoint": MODELS[0], "samples_format": "png"},
        ("GET", "/sdapi/v1/memory"): {"ram": {}, "cuda": {}},
        ("GET", "/internal/ping"): {},
    }
    expected = behaviour.credentials and "Basic " + base64.b64encode(behaviour.credentials.encode()).decode()
    if expected and request.path.startswith("/sdapi/") and request.header("authorization") != expected:
        await request.respond_json(401, {"detail": "Incorrect username or password"})
    elif request.path in ("/sdapi/v1/txt2img", "/sdapi/v1/img2img"):
        await _txt2img(fake, request)
    elif request.path == "/sdapi/v1/interrupt" and request.method == "POST":
        fake.interrupt()
        await request.respond_json(200, {})
    elif request.path == "/sdapi/v1/progress" and behaviour.observable:
        await request.respond_json(200, fake.progress())
    elif request.path == "/internal/progress" and behaviour.tracked and request.method == "POST":
        await request.respond_json(200, fake.progress_of(request.json()))
    elif (request.method, request.path) in tables:
        await request.respond_json(200, tables[request.method, request.path])
    else:
        await request.respond_json(404, {"detail": "Not Found"})


async def _txt2img(fake: FakeA1111, request: Request) -> None:
    refusal = _refusal(request)
    if refusal is not None:
        await request.respond_json(*refusal)
        return
    fake.payloads.append(request.json())
    answered, answer = trio.Event(), dict[str, Any]()
    fake.server.nursery.start_soon(fake.draw, request, answered, answer)
    await answered.wait()
    await request.respond_json(500 if "error" in answer else 200, answer)


def _refusal(request: Request) -> tuple[int, dict[str, Any]] | None:
    """What A1111 says before it queues anything: FastAPI's 405 and 422, its own 404."""
    if request.method != "POST":
        return 405, {"detail": "Method Not Allowed"}
    try:
        payload = request.json()
    except ValueError:
        return 422, {"detail": [{"type": "json_invalid", "loc": ["body", 0], "msg": "JSON decode error"}]}
    for name in ("width", "height", "steps", "seed", "batch_size"):
        if not isinstance(payload.get(name, 0), int):
            return 422, {
                "detail": [{"type": "int_parsing", "loc": ["body", name], "msg": "Input should be an integer"}]
            }
    if request.path.endswith("img2img") and not payload.get("init_images"):
        return 404, {"error": "HTTPException", "detail": "Init image not found", "body": "", "errors": ""}
    sampler = payload.get("sampler_name")
    if sampler and sampler not in SAMPLERS:
        return 404, {"error": "HTTPException", "detail": "Sampler not found", "body": "", "errors": ""}
    return None


__all__ = ["Behaviour", "Counts", "FakeA1111", "open_fake_a1111"]
