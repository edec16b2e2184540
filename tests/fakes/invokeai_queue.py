"""A fake InvokeAI's queue: items, and one worker that ends its step before it heeds a cancel."""

import json
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import trio

from tests.fakes.http import Changes, Server, Statistics
from tests.fakes.invokeai_items import TERMINAL, Item, make_items, model_records, preview
from tests.fakes.invokeai_socket import Listeners
from tests.fakes.pictures import png


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
    fetching_s: float = 0.0
    max_queue_size: int = 10_000
    users: dict[str, str] = field(default_factory=dict)
    fail_with: str | None = None


@dataclass
class FakeInvokeAI:
    """`payloads`: what was asked for, an entry a batch. `is_idle`: nothing runs, nothing waits. `working_on`: an item
    whose worker is not free, whatever its status says. `previewed_at`: when each preview was there. `asked`: paths, and with what `authorizations`. `instead_of_...`: what is then said.
    """

    server: Server
    behaviour: Behaviour
    payloads: list[dict[str, Any]] = field(default_factory=list)
    batches: list[dict[str, Any]] = field(default_factory=list)
    items: dict[int, Item] = field(default_factory=dict)
    images: dict[str, bytes] = field(default_factory=dict)
    uploaded: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    authorizations: list[str | None] = field(default_factory=list)
    instead_of_session: dict[str, Any] | None = None
    instead_of_enqueued: dict[str, Any] | None = None
    instead_of_status: bytes | None = None
    models: list[dict[str, Any]] = field(default_factory=model_records)
    listeners: Listeners = field(default_factory=Listeners)
    cancels: list[tuple[float, str]] = field(default_factory=list)
    tokens: dict[str, str] = field(default_factory=dict)
    logins: int = 0
    previewed_at: list[float] = field(default_factory=list)
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
            item.status, item.begun = "in_progress", True
            self.working_on = item
            self.changes.notify()
            outcome = await self._work(item)
            item.left = True
            if item.status != "canceled":
                item.status = outcome
            self.working_on = None
            self.changes.notify()

    async def _work(self, item: Item) -> str:
        item.prepared = {name: str(uuid4()) for name in item.graph["nodes"]}
        for name, node in item.graph["nodes"].items():
            if node["type"] in ("img_resize", "tomask"):
                self._save(item, name, node)
        for step in range(item.steps):
            await trio.sleep(self.behaviour.step_s)
            if item.status == "canceled":
                await trio.sleep(self.behaviour.lag_s)
                return "canceled"
            if self.behaviour.fail_with is not None:
                item.error_type = self.behaviour.fail_with
                return "failed"
            await self._show(item, step)
        await trio.sleep(self.behaviour.decode_s)
        for name, node in item.graph["nodes"].items():
            if node["type"] in ("l2i", "blank_image"):
                self._save(item, name, node if node["type"] == "blank_image" else item.node("noise"))
        return "completed"

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
        self.previewed_at.append(trio.current_time())
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

    def instead(self) -> dict[str, Any]:
        return {} if self.instead_of_session is None else {"session": self.instead_of_session}

    def status(self) -> dict[str, Any]:
        states = [item.status for item in self.items.values()]
        running = next((item.item_id for item in self.items.values() if item.status == "in_progress"), None)
        counts = {state: states.count(state) for state in ("pending", "in_progress", "waiting", *TERMINAL)}
        queue = {"queue_id": "default", "item_id": running, "batch_id": None, "session_id": None, **counts}
        mine = {"total": len(states), "user_pending": counts["pending"], "user_in_progress": counts["in_progress"]}
        processor = {"is_started": not self.paused, "is_processing": self.working_on is not None}
        return {"queue": {**queue, **mine}, "processor": processor}
