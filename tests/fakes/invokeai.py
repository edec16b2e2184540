"""A fake InvokeAI: its routes, over a queue with one worker, and socket.io beside them.

Does what 6.14.2 was seen to do; `tests/real/test_invokeai_real.py` asks both the same and compares.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import trio

from tests.fakes.http import Request, open_server
from tests.fakes.invokeai_items import TERMINAL, make_items, refusal, told
from tests.fakes.invokeai_queue import Behaviour, FakeInvokeAI
from tests.fakes.invokeai_socket import PATH as SOCKET_PATH

QUEUE = "/api/v1/queue/default/"


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
    fake.asked.append(path)
    fake.authorizations.append(request.header("authorization"))
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
    elif path == "status" and fake.instead_of_status is not None:
        await request.respond(200, fake.instead_of_status)
    elif path == "status":
        await request.respond_json(200, fake.status())
    elif path in ("processor/pause", "processor/resume"):
        fake.paused = path == "processor/pause"
        fake.changes.notify()
        await request.respond_json(200, fake.status()["processor"])
    elif path == "list_all":
        wanted = parse_qs(urlsplit(request.target).query)["destination"][0]
        await request.respond_json(200, [each.dto() for each in fake.items.values() if each.destination == wanted])
    elif path == "cancel_by_destination":
        wanted = parse_qs(urlsplit(request.target).query)["destination"][0]
        mine = [each for each in fake.items.values() if each.destination == wanted and each.status not in TERMINAL]
        fake.cancels.append((trio.current_time(), wanted))
        fake.changes.notify()
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
    await request.respond_json(200, {**item.dto(), **fake.instead()})


async def _enqueue(fake: FakeInvokeAI, request: Request) -> None:
    """Is not undone by a client that hangs up: the server has the batch."""
    batch = request.json().get("batch")
    refused = refusal(batch)
    if refused is not None:
        await request.respond_json(422, refused)
        return
    fake.batches.append(batch)
    fake.changes.notify()
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
    await request.respond_json(200, answer if fake.instead_of_enqueued is None else fake.instead_of_enqueued)


async def _images(fake: FakeInvokeAI, request: Request, path: str) -> None:
    if path == "upload":
        await _upload(fake, request)
    elif path == "delete":
        names = [name for name in request.json()["image_names"] if fake.images.pop(name, None) is not None]
        await request.respond_json(
            200, {"affected_boards": ["none"] * bool(names), "deleted_images": names, "failed_images": []}
        )
    elif (name := path.removeprefix("i/").removesuffix("/full")) in fake.images:
        await trio.sleep(fake.behaviour.fetching_s)
        await request.respond(200, fake.images[name], {"Content-Type": "image/png"})
    else:
        await request.respond_json(404, {"detail": "Not Found"})


async def _upload(fake: FakeInvokeAI, request: Request) -> None:
    boundary = (request.header("content-type") or "").partition("boundary=")[2].encode()
    head, _, rest = request.body.partition(b"\r\n\r\n")
    if b'name="file"' not in head or b"Content-Type: image/" not in head:
        await request.respond_json(415, {"detail": "Not an image"})
        return
    name = f"{uuid4()}.png"
    fake.uploaded[name] = fake.images[name] = rest.removesuffix(b"\r\n--" + boundary + b"--\r\n")
    await request.respond_json(201, {"image_name": name, "is_intermediate": "is_intermediate=true" in request.target})


__all__ = ["Behaviour", "FakeInvokeAI", "open_fake_invokeai"]
