"""A fake InvokeAI: a queue of items, one worker that ends its step before it heeds a cancel, and socket.io beside it.

Does what 6.14.2 was seen to do; `tests/real/test_invokeai_real.py` asks both the same and compares.
"""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import trio

from tests.fakes.http import Changes, Request, Server, Statistics, open_server
from tests.fakes.invokeai_items import TERMINAL, Item, make_items, model_records, preview, refusal, told
from tests.fakes.invokeai_socket import PATH as SOCKET_PATH
from tests.fakes.invokeai_socket import Listeners
from tests.fakes.pictures import png

QUEUE = "/api/v1/queue/default/"


@dataclass
class Behaviour:
    """What a test may turn. Seconds on trio's clock.

    `enqueueing_s`: from a batch's last byte to its place in the queue; `answering_s`: from there to the answer;
    `lag_s`: how long the worker is busy yet after the step in which it was cancelled. `users`: e-mail -> password, with
    them on, everything wants a login. `fail_with`: the class of the error that drawing raises.
    """

    step_s: float = 0.1
    decode_s: float = 0.0
    enqueueing_s: float = 0.0
    answering_s: float = 0.0
    lag_s: float = 0.0
    max_queue_size: int = 10_000
    users: dict[str, str] = field(default_factory=dict)
    fail_with: str | None = None


@dataclass
class FakeInvokeAI:
    """`payloads`: what was asked for, an entry a batch. `is_idle`: nothing runs, nothing waits. `working_on`: an item
    whose worker is not free, whatever its status says.
    """

    server: Server
    behaviour: Behaviour
    payloads: list[dict[str, Any]] = field(default_factory=list)
    batches: list[dict[str, Any]] = field(default_factory=list)
    items: dict[int, Item] = field(default_factory=dict)
    images: dict[str, bytes] = field(default_factory=dict)
    models: list[dict[str, Any]] = field(default_factory=model_records)
    listeners: Listeners = field(default_factory=Listeners)
    cancels: list[tuple[float, str]] = field(default_factory=list)
    tokens: dict[str, str] = field(default_factory=dict)
    logins: int = 0
    paused: bool = False
    working_on: Item | None = None
    changes: Changes = field(default_factory=Changes)

    @property
    def base_url(self) -> str:
        return self.server.base_url

    @property
    def statistics(self) -> Statistics:
        return self.server.statistics

    @property
    def is_idle(self) -> bool:
        return self.working_on is None and not self.pending()

    def pending(self) -> list[Item]:
        return [item for item in self.items.values() if item.status == "pending"]

    async def until_active(self) -> None:
        await self.changes.until(lambda: self.working_on is not None)

    async def until_queued(self, number: int = 1) -> None:
        await self.changes.until(lambda: len(self.pending()) >= number)

    async def until_idle(self) -> None:
        await self.changes.until(lambda: self.is_idle)

    def resume(self) -> None:
        self.paused = False
        self.changes.notify()

    async def run_worker(self) -> None:
        while True:
            await self.changes.until(lambda: bool(self.pending()) and not self.paused)
            item = self.pending()[0]
            item.status = "in_progress"
            self.working_on = item
            self.changes.notify()
            await self._work(item)
            self.working_on = None
            self.changes.notify()

    async def _work(self, item: Item) -> None:
        item.prepared = {name: str(uuid4()) for name in item.graph["nodes"]}
        for name, node in item.graph["nodes"].items():
            if node["type"] in ("img_resize", "tomask"):
                self._save(item, name, node)
        for step in range(item.steps):
            await trio.sleep(self.behaviour.step_s)
            if item.status == "canceled":
                await trio.sleep(self.behaviour.lag_s)
                return
            if self.behaviour.fail_with is not None:
                item.status, item.error_type = "failed", self.behaviour.fail_with
                return
            await self._show(item, step)
        await trio.sleep(self.behaviour.decode_s)
        for name, node in item.graph["nodes"].items():
            if node["type"] in ("l2i", "blank_image"):
                self._save(item, name, node if node["type"] == "blank_image" else item.node("noise"))
        if item.status != "canceled":
            item.status = "completed"

    def _save(self, item: Item, name: str, size: dict[str, Any]) -> None:
        image = f"{uuid4()}.png"
        self.images[image] = png(
            size.get("width", 64), size.get("height", 64), text=json.dumps(item.graph), shade=item.seed
        )
        item.images[image] = name

    async def _show(self, item: Item, step: int) -> None:
        noise = item.node("noise")
        said = {
            "queue_id": "default",
            "item_id": item.item_id,
            "destination": item.destination,
            "message": "Denoising",
            "percentage": (step + 1) / item.steps,
            "image": preview(noise["width"], noise["height"], step),
        }
        await self.listeners.tell("invocation_progress", said)

    def cancel(self, item: Item) -> None:
        self.cancels.append((trio.current_time(), str(item.item_id)))
        if item.status not in TERMINAL:
            item.status = "canceled"
        self.changes.notify()

    def enqueue(self, batch: dict[str, Any], user: str) -> dict[str, Any]:
        items = make_items(batch, len(self.items) + 1, user)
        taken = items[: max(0, self.behaviour.max_queue_size - len(self.pending()))]
        self.items |= {item.item_id: item for item in taken}
        self.changes.notify()
        ids = [item.item_id for item in reversed(taken)]
        return {
            "queue_id": "default",
            "enqueued": len(taken),
            "requested": len(items),
            "batch": batch,
            "priority": 0,
            "item_ids": ids,
        }

    def status(self) -> dict[str, Any]:
        states = [item.status for item in self.items.values()]
        running = next((item.item_id for item in self.items.values() if item.status == "in_progress"), None)
        counts = {state: states.count(state) for state in ("pending", "in_progress", "waiting", *TERMINAL)}
        queue = {"queue_id": "default", "item_id": running, "batch_id": None, "session_id": None, **counts}
        mine = {"total": len(states), "user_pending": counts["pending"], "user_in_progress": counts["in_progress"]}
        processor = {"is_started": not self.paused, "is_processing": self.working_on is not None}
        return {"queue": {**queue, **mine}, "processor": processor}


@asynccontextmanager
async def open_fake_invokeai(behaviour: Behaviour | None = None, *, port: int = 0) -> AsyncIterator[FakeInvokeAI]:
    """Serve until the block ends; items that still run then are dropped."""
    holder: list[FakeInvokeAI] = []
    async with open_server(lambda request: _handle(holder[0], request), port=port) as server:
        holder.append(FakeInvokeAI(server, behaviour or Behaviour()))
        server.nursery.start_soon(holder[0].run_worker)
        yield holder[0]


async def _handle(fake: FakeInvokeAI, request: Request) -> None:
    path = request.path
    if path == SOCKET_PATH:
        await fake.listeners.serve(request, is_allowed=lambda token: not fake.behaviour.users or token in fake.tokens)
    elif path == "/api/v1/auth/login":
        await _log_in(fake, request)
    elif path == "/api/v1/app/version":
        await request.respond_json(200, {"version": "6.14.2"})
    elif fake.behaviour.users and (request.header("authorization") or "").removeprefix("Bearer ") not in fake.tokens:
        await request.respond_json(401, {"detail": "Authentication required"})
    elif path == "/api/v2/models/":
        await request.respond_json(200, {"models": fake.models})
    elif path.startswith(QUEUE):
        await _queue(fake, request, path.removeprefix(QUEUE))
    elif path.startswith("/api/v1/images/"):
        await _images(fake, request, path.removeprefix("/api/v1/images/"))
    else:
        await request.respond(200, b"<!DOCTYPE html>", {"Content-Type": "text/html"})  # its pages' own


async def _log_in(fake: FakeInvokeAI, request: Request) -> None:
    if not fake.behaviour.users:
        await request.respond_json(403, {"detail": "Multiuser mode is disabled."})
        return
    said = request.json()
    if fake.behaviour.users.get(said["email"]) != said["password"]:
        await request.respond_json(401, {"detail": "Incorrect email or password"})
        return
    fake.logins += 1
    token = f"token-{fake.logins}"
    fake.tokens[token] = said["email"]
    await request.respond_json(200, {"token": token, "user": {"email": said["email"]}, "expires_in": 86400})


async def _queue(fake: FakeInvokeAI, request: Request, path: str) -> None:
    if path == "enqueue_batch":
        await _enqueue(fake, request)
    elif path == "status":
        await request.respond_json(200, fake.status())
    elif path in ("processor/pause", "processor/resume"):
        fake.paused = path == "processor/pause"
        fake.changes.notify()
        await request.respond_json(200, fake.status()["processor"])
    elif path == "cancel_by_destination":
        wanted = parse_qs(urlsplit(request.target).query)["destination"][0]
        mine = [each for each in fake.items.values() if each.destination == wanted and each.status not in TERMINAL]
        fake.cancels.append((trio.current_time(), wanted))
        for each in mine:
            fake.cancel(each)
        await request.respond_json(200, {"canceled": len(mine)})
    else:
        await _item(fake, request, path.removeprefix("i/"))


async def _item(fake: FakeInvokeAI, request: Request, path: str) -> None:
    number = path.removesuffix("/cancel")
    item = fake.items.get(int(number))
    if item is None:
        await request.respond_json(404, {"detail": f"Queue item with id {number} not found in queue default"})
        return
    if path.endswith("/cancel"):
        fake.cancel(item)
    await request.respond_json(200, item.dto())


async def _enqueue(fake: FakeInvokeAI, request: Request) -> None:
    """Is not undone by a client that hangs up: the server has the batch."""
    batch = request.json().get("batch")
    refused = refusal(batch)
    if refused is not None:
        await request.respond_json(422, refused)
        return
    fake.batches.append(batch)
    fake.payloads.extend(told(item) for item in make_items(batch, 0, "")[:1])
    user = fake.tokens.get((request.header("authorization") or "").removeprefix("Bearer "), "system")
    answer: dict[str, Any] = {}
    answered = trio.Event()

    async def enqueue() -> None:
        await trio.sleep(fake.behaviour.enqueueing_s)
        answer.update(fake.enqueue(batch, user))
        await trio.sleep(fake.behaviour.answering_s)
        answered.set()

    fake.server.nursery.start_soon(enqueue)
    await answered.wait()
    await request.respond_json(200, answer)


async def _images(fake: FakeInvokeAI, request: Request, path: str) -> None:
    if path == "upload":
        await _upload(fake, request)
    elif path == "delete":
        names = [name for name in request.json()["image_names"] if fake.images.pop(name, None) is not None]
        await request.respond_json(200, {"affected_boards": [], "deleted_images": names, "failed_images": []})
    elif path.endswith("/full") and path.removeprefix("i/").removesuffix("/full") in fake.images:
        await request.respond(
            200, fake.images[path.removeprefix("i/").removesuffix("/full")], {"Content-Type": "image/png"}
        )
    else:
        await request.respond_json(404, {"detail": "Not Found"})


async def _upload(fake: FakeInvokeAI, request: Request) -> None:
    boundary = (request.header("content-type") or "").partition("boundary=")[2].encode()
    head, _, rest = request.body.partition(b"\r\n\r\n")
    if b'name="file"' not in head or b"Content-Type: image/" not in head:
        await request.respond_json(415, {"detail": "Not an image"})
        return
    name = f"{uuid4()}.png"
    fake.images[name] = rest.removesuffix(b"\r\n--" + boundary + b"--\r\n")
    await request.respond_json(201, {"image_name": name, "is_intermediate": "is_intermediate=true" in request.target})


__all__ = ["Behaviour", "FakeInvokeAI", "open_fake_invokeai"]
