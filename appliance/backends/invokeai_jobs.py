"""InvokeAI's jobs: the items of one call, from the queue to their pictures, or to an end that hurts nobody else's.

A cancel answers at once and the worker goes on to the end of its step or node. It is free for others when it says that
it processes nothing, or when it has gone on to somebody else's item.
"""

import json
import secrets
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import trio

from appliance.backends.base import ImageCall
from appliance.backends.decoding import unusable
from appliance.backends.invokeai_api import QUEUE, Api, Ask
from appliance.backends.invokeai_items import Item, is_elsewhere, read_item, read_item_ids, read_items
from appliance.backends.invokeai_pictures import Pictures
from appliance.protocol.errors import UpstreamFailed, UpstreamTimeout
from appliance.upstream.exchange import UpstreamAnswer
from appliance.upstream.failures import parse_json_object

POLL_S = 0.1  # an item costs the server 0.65 s of its own
END_POLL_S = 0.01  # for as long as most steps take; seen: a look costs a server that draws 2 to 10 ms
END_POLL_LATER_S = 0.025  # a slot is back 50 ms after the worker has left, the answers included
END_SOON_S = 0.5
LOOK_TIMEOUT_S = 2.0  # one question about a job that nobody waits for; the server answers beside its drawing
LOOKS_FOR_LOST = 10  # one second: the batch's bytes may still be on their way to the queue
FULL_RETRY_S = 5.0


class _Unreachable(Exception):
    """Nobody listens there any more, so nothing draws there."""


class Job:
    """One batch of ours. `destination` names it and nothing else in the queue."""

    def __init__(self, call: ImageCall, api: Api, pictures: Pictures) -> None:
        self._call = call
        self._api = api
        self._pictures = pictures
        self._enqueueing = False
        self._open: set[int] = set()  # items that may still be drawn
        self._may_have_left = False  # pictures, in items that were cut off
        self.destination = f"appliance-{secrets.token_hex(16)}"

    async def run(self, batch: dict[str, Any]) -> list[str]:
        """Enqueue, and wait for all pictures: their names, in the batch's order.

        Raises UpstreamFailed (429 for a full queue), UpstreamTimeout.
        """
        items = await self._enqueue(batch)
        if len(items) < self._call.n:
            raise self._failed("has its queue full", status=429, retry_after_s=FULL_RETRY_S)
        return [await self._until_drawn(item_id) for item_id in items]

    async def end(self) -> None:
        """Return once the server works on none of ours, within the call's cancel_timeout_s; at once if all is over."""
        with trio.move_on_after(self._call.cancel_timeout_s):
            try:
                await self._end()
            except _Unreachable:
                return
            await self._pictures.remove()

    async def _enqueue(self, batch: dict[str, Any]) -> Sequence[int]:
        body = json.dumps(batch).encode()
        answer = await self._api.ask(Ask("POST", f"{QUEUE}/enqueue_batch", body, on_connected=self._mark_enqueueing))
        if 400 <= answer.status < 500:  # refused as a whole; after a 500 it may be there all the same
            self._enqueueing = False
        said = self._api.object_in(answer)
        items = read_item_ids(said)
        if not items and said.get("enqueued") != 0:
            raise unusable(self._call, "an enqueued batch without item_ids, which InvokeAI 6 gives")
        self._enqueueing = False
        self._open.update(items)
        return items

    def _mark_enqueueing(self) -> None:
        self._enqueueing = True

    async def _until_drawn(self, item_id: int) -> str:
        while True:
            item = await self._look(item_id)
            if item.is_over:
                break
            await trio.sleep(POLL_S)
        self._close(item_id, item)
        if item.status == "completed":
            if item.picture is None:
                raise unusable(self._call, "a completed item without a picture")
            return item.picture
        if item.status == "canceled":
            raise self._failed("was told by somebody else to cancel this picture")
        raise self._failed("failed to draw this" + (f": {item.error_type}" if item.error_type else ""))

    async def _look(self, item_id: int) -> Item:
        try:
            return read_item(await self._api.ask_object(Ask("GET", f"{QUEUE}/i/{item_id}")))
        except UpstreamFailed as failure:
            if failure.status != 404:
                raise
            self._open.discard(item_id)
            raise self._failed("no longer knows this picture: its queue was cleared") from None

    async def _end(self) -> None:
        if not self._enqueueing and not self._open:
            return
        if self._enqueueing:
            await self._cancel_lost()
        while self._open:
            for item_id in sorted(self._open, reverse=True):  # the one that is being drawn is the oldest
                await self._cancel(item_id)
            if self._open:
                await trio.sleep(END_POLL_S)
        soon = trio.current_time() + END_SOON_S
        while not is_elsewhere(await self._control("GET", f"{QUEUE}/status") or {}):  # noqa: ASYNC110 - the server has no event
            await trio.sleep(END_POLL_S if trio.current_time() < soon else END_POLL_LATER_S)
        if self._may_have_left:
            await self._note_what_is_left()

    async def _cancel_lost(self) -> None:
        """The batch was sent and its answer never heard: it has no ids, and may not have arrived yet."""
        self._may_have_left = True
        for _ in range(LOOKS_FOR_LOST):
            said = await self._control("PUT", f"{QUEUE}/cancel_by_destination?destination={self.destination}")
            if said and said.get("canceled"):
                return  # a batch comes into the queue as a whole
            await trio.sleep(POLL_S)

    async def _cancel(self, item_id: int) -> None:
        """Cancel by id: nobody else's has it. One that ended meanwhile says how."""
        said = await self._control("PUT", f"{QUEUE}/i/{item_id}/cancel")
        if said is None:
            return
        item = read_item(said)
        if item.is_over:
            self._close(item_id, item)
        if item.begun and item.status == "canceled":
            self._may_have_left = True

    async def _note_what_is_left(self) -> None:
        """What a cut-off item's nodes gave is stored when the worker has left it, by then we may not know its id."""
        with suppress(UpstreamFailed, UpstreamTimeout):
            path = f"{QUEUE}/list_all?destination={self.destination}"
            answer = await self._api.ask(Ask("GET", path, within_s=LOOK_TIMEOUT_S))
            for item in read_items(answer.body):
                self._pictures.note(item.images)

    async def _control(self, method: str, path: str) -> dict[str, Any] | None:
        """Ask beside the drawing: None for no clear answer. Raises _Unreachable."""
        connected = trio.Event()
        try:
            answer = await self._api.ask(Ask(method, path, within_s=LOOK_TIMEOUT_S, on_connected=connected.set))
            return _object(answer, upstream=self._call.backend_class.name)
        except UpstreamTimeout:
            return None
        except UpstreamFailed:
            if connected.is_set():
                return None
            raise _Unreachable from None

    def _close(self, item_id: int, item: Item) -> None:
        self._open.discard(item_id)
        self._pictures.note(item.images)

    def _failed(self, words: str, *, status: int | None = None, retry_after_s: float | None = None) -> UpstreamFailed:
        name = self._call.backend_class.name
        return UpstreamFailed(f"{name} {words}.", upstream=name, status=status, retry_after_s=retry_after_s)


def _object(answer: UpstreamAnswer, *, upstream: str) -> dict[str, Any] | None:
    if answer.status == 404:
        return {"status": "canceled"}  # an item that was cleared away
    return parse_json_object(answer.body, upstream=upstream) if answer.status == 200 else None
