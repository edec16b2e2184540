"""A fake of stable-diffusion.cpp's server and its jobs: one worker, which nothing stops, and a queue that can be left.

Behaves as `routes_sdcpp.cpp` and `async_jobs.cpp` of the build in tests/real/sdserver were seen to do; `test_sd_jobs_real`
asks both the same.
"""

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import trio

from tests.fakes.http import Changes, Request, Server, Statistics, open_server
from tests.fakes.pictures import png

API = "/sdcpp/v1"
SAMPLERS = ["euler", "euler_a", "dpm++2m"]
SCHEDULERS = ["discrete", "karras"]
DEFAULT_SEED = 42


@dataclass
class Behaviour:
    """What a test may turn. `answering_s`: from a job's place in the queue to the answer with its id.

    `slow_looks`: how many of the next looks get no answer in time. `instead`: what is said of jobs, whatever they are.
    """

    drawing_s: float = 0.1
    answering_s: float = 0.0
    max_pending: int = 64
    slow_looks: int = 0
    instead: dict[str, Any] = field(default_factory=dict)
    fail_with: str | None = None


@dataclass
class Job:
    id: str
    asked: dict[str, Any]
    status: str = "queued"
    error: dict[str, str] | None = None

    @property
    def is_over(self) -> bool:
        return self.status in ("completed", "failed", "cancelled")


@dataclass
class FakeSdCpp:
    """`payloads`: what was asked for, in the words that every image backend's tests have for it."""

    server: Server
    behaviour: Behaviour
    jobs: dict[str, Job] = field(default_factory=dict)
    payloads: list[dict[str, Any]] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    refused: int = 0
    changes: Changes = field(default_factory=Changes)

    @property
    def base_url(self) -> str:
        return self.server.base_url

    @property
    def statistics(self) -> Statistics:
        return self.server.statistics

    @property
    def is_idle(self) -> bool:
        return all(job.is_over for job in self.jobs.values())

    def statuses(self) -> list[str]:
        return [job.status for job in self.jobs.values()]

    async def until_active(self) -> None:
        await self.changes.until(lambda: "generating" in self.statuses())

    async def until_queued(self) -> None:
        await self.changes.until(lambda: "queued" in self.statuses())

    async def work(self) -> None:
        while True:
            await self.changes.until(lambda: "queued" in self.statuses())
            job = next(job for job in self.jobs.values() if job.status == "queued")
            job.status = "generating"
            self.changes.notify()
            await trio.sleep(self.behaviour.drawing_s)
            job.status = "completed" if self.behaviour.fail_with is None else "failed"
            if self.behaviour.fail_with is not None:
                job.error = {"code": "generation_failed", "message": self.behaviour.fail_with}
            self.changes.notify()

    def told(self, job: Job) -> dict[str, Any]:
        waiting = [one.id for one in self.jobs.values() if one.status == "queued"]
        begun, ended = job.status not in ("queued", "cancelled"), job.is_over
        return {
            "id": job.id,
            "kind": "img_gen",
            "status": job.status,
            "created": 1,
            "started": 2 if begun else None,
            "completed": 3 if ended else None,
            "queue_position": waiting.index(job.id) + 1 if job.id in waiting else 0,
            "result": _result(job.asked) if job.status == "completed" else None,
            "error": job.error,
        }


@asynccontextmanager
async def open_fake_sd_cpp(behaviour: Behaviour | None = None) -> AsyncIterator[FakeSdCpp]:
    """Serve until the block ends; jobs that still run then are dropped."""
    holder: list[FakeSdCpp] = []
    async with open_server(lambda request: _handle(holder[0], request)) as server:
        holder.append(FakeSdCpp(server, behaviour or Behaviour()))
        server.nursery.start_soon(holder[0].work)
        yield holder[0]


async def _handle(fake: FakeSdCpp, request: Request) -> None:
    fake.asked.append(f"{request.method} {request.path}")
    fake.changes.notify()
    if request.path == "/v1/models":
        model = {"id": "sd-cpp-local", "object": "model", "owned_by": "local"}
        await request.respond_json(200, {"data": [model], "object": "list"})
    elif request.path == f"{API}/capabilities":
        limits = {"max_queue_size": fake.behaviour.max_pending, "max_batch_count": 8}
        features = {"cancel_queued": True, "cancel_generating": False}
        said = {"samplers": SAMPLERS, "schedulers": SCHEDULERS, "limits": limits, "features": features}
        await request.respond_json(200, said)
    elif request.path == f"{API}/img_gen" and request.method == "POST":
        await _submit(fake, request)
    elif request.path.startswith(f"{API}/jobs/"):
        await _job(fake, request, request.path.removeprefix(f"{API}/jobs/"))
    else:
        await request.respond(404, b"")


async def _submit(fake: FakeSdCpp, request: Request) -> None:
    if not request.body:
        await request.respond_json(400, {"error": "empty body"})
        return
    try:
        asked = request.json()
    except ValueError:
        await request.respond_json(400, {"error": "invalid json", "message": "[json.exception.parse_error.101]"})
        return
    if not isinstance(asked, dict):
        await request.respond_json(500, {"error": "server_error", "message": "[json.exception.type_error.306]"})
        return
    if sum(not job.is_over for job in fake.jobs.values()) >= fake.behaviour.max_pending:
        fake.refused += 1
        await request.respond_json(429, {"error": "job queue is full"})
        return
    job = Job(f"job_6b0767a8_{len(fake.jobs):08x}", asked)
    fake.jobs[job.id] = job
    fake.payloads.append(_told(asked))
    fake.changes.notify()
    await trio.sleep(fake.behaviour.answering_s)
    answer = {"id": job.id, "kind": "img_gen", "status": job.status, "created": 1, "poll_url": f"{API}/jobs/{job.id}"}
    await request.respond_json(202, {**answer, **fake.behaviour.instead})


async def _job(fake: FakeSdCpp, request: Request, path: str) -> None:
    job = fake.jobs.get(path.removesuffix("/cancel"))
    if job is None:
        await request.respond_json(404, {"error": "job not found"})
        return
    if path.endswith("/cancel") and job.status == "generating":
        said = "job is currently generating and cannot be interrupted yet"
        await request.respond_json(409, {"error": said})
        return
    if path.endswith("/cancel") and job.status == "queued":
        job.status = "cancelled"
        job.error = {"code": "cancelled", "message": "job cancelled by client"}
        fake.changes.notify()
    if fake.behaviour.slow_looks and request.method == "GET":
        fake.behaviour.slow_looks -= 1
        await request.hung_up()
        return
    await request.respond_json(200, {**fake.told(job), **fake.behaviour.instead})


def _result(asked: dict[str, Any]) -> dict[str, Any]:
    size = [-(-asked.get(side, 512) // 8) * 8 for side in ("width", "height")]  # seen: 100x68 becomes 104x72
    text = asked["prompt"] if asked.get("embed_image_metadata", True) else ""
    shades = [asked.get("seed", DEFAULT_SEED) + index for index in range(asked.get("batch_count", 1))]
    pictures = [base64.b64encode(png(*size, text=text, shade=shade)).decode() for shade in shades]
    images = [{"index": index, "b64_json": picture} for index, picture in enumerate(pictures)]
    return {"output_format": asked.get("output_format", "png"), "images": images}


def _told(asked: dict[str, Any]) -> dict[str, Any]:
    sample = asked.get("sample_params", {})
    told = {
        "steps": sample.get("sample_steps"),
        "cfg_scale": sample.get("guidance", {}).get("txt_cfg"),
        "scheduler": sample.get("scheduler"),
        "sampler": sample.get("sample_method"),
        **{name: asked.get(name) for name in ("prompt", "negative_prompt", "seed", "width", "height", "strength")},
    }
    return {name: value for name, value in told.items() if value is not None}
