"""Hang-ups over real sockets: the application hears at once, the descriptor is closed at once, nothing hides it."""

import socket
import struct
from collections.abc import Callable
from typing import Any

import pytest
import trio

from tests.sockets.listening import answer, descriptors, eventually, listening, read_body, read_until

pytestmark = pytest.mark.usefixtures("http1")

GET = b"GET /a HTTP/1.1\r\nHost: g\r\n\r\n"
Leave = Callable[[trio.SocketStream], None]


def fin(client: trio.SocketStream) -> None:
    client.socket.close()


def rst(client: trio.SocketStream) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.socket.close()


def half(client: trio.SocketStream) -> None:
    client.socket.shutdown(socket.SHUT_WR)


class Waiting:
    """Reads so much of the body, then waits for the disconnect, then cleans up under a shield until let go."""

    def __init__(self, reads: int = 1) -> None:
        self.running = trio.Event()
        self.heard = trio.Event()
        self.let_go = trio.Event()
        self.cleaned = 0
        self._reads = reads

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        for _ in range(self._reads):
            await receive()
        self.running.set()
        while (await receive())["type"] != "http.disconnect":
            pass
        self.heard.set()
        with trio.move_on_after(10, shield=True):
            await self.let_go.wait()
        self.cleaned += 1


@pytest.mark.parametrize("leave", [fin, rst, half])
async def test_call_hears_of_a_hang_up_at_once_and_the_descriptor_is_closed_before_its_clean_up(leave: Leave) -> None:
    app = Waiting()
    async with listening(app) as house:
        before = descriptors()
        client = await house.connect()
        await client.send_all(GET)
        with trio.fail_after(5):
            await app.running.wait()
            leave(client)
            await app.heard.wait()
            client.socket.close()
            assert descriptors() == before
            assert app.cleaned == 0
            app.let_go.set()
            await trio.testing.wait_all_tasks_blocked()
        assert app.cleaned == 1
        assert house.crashes == []


@pytest.mark.parametrize("leave", [fin, rst, half])
async def test_hang_up_is_seen_behind_an_unread_body(leave: Leave) -> None:
    async def deaf(scope: Any, receive: Any, send: Any) -> None:
        running.set()
        await heard_elsewhere.wait()  # reads nothing: the reader is stuck behind a full queue
        assert (await receive())["type"] == "http.disconnect"
        heard.set()

    running, heard, heard_elsewhere = trio.Event(), trio.Event(), trio.Event()
    async with listening(deaf) as house:
        before = descriptors()
        client = await house.connect()
        with trio.fail_after(5):
            await client.send_all(b"POST / HTTP/1.1\r\nHost: g\r\nContent-Length: 900000\r\n\r\n" + b"x" * 100_000)
            await running.wait()
            leave(client)
            client.socket.close()
            await eventually(lambda: descriptors() <= before)
            heard_elsewhere.set()
            await heard.wait()


@pytest.mark.parametrize("leave", [fin, rst])
async def test_hang_up_is_seen_behind_pipelined_requests(leave: Leave) -> None:
    app = Waiting()
    async with listening(app) as house:
        client = await house.connect()
        await client.send_all(GET * 50)
        with trio.fail_after(5):
            await app.running.wait()
            leave(client)
            await app.heard.wait()
        app.let_go.set()
        await trio.testing.wait_all_tasks_blocked()
        assert app.cleaned == 1  # the requests behind it were never begun


@pytest.mark.parametrize("leave", [fin, rst])
async def test_hang_up_is_seen_while_the_application_is_blocked_in_sending(leave: Leave) -> None:
    async def stream(scope: Any, receive: Any, send: Any) -> None:
        async def listen() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            heard.set()
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            await send({"type": "http.response.start", "status": 200, "headers": []})
            while True:
                await send({"type": "http.response.body", "body": b"x" * 200_000, "more_body": True})
                sent.append(1)

    heard = trio.Event()
    sent: list[int] = []
    async with listening(stream) as house:
        client = await house.connect()
        await client.send_all(GET)
        with trio.fail_after(5):
            await read_until(client, b"x")
            while True:  # until the buffers are full
                count = len(sent)
                await trio.sleep(0.05)
                if count == len(sent):
                    break
            leave(client)
            await heard.wait()
        assert house.crashes == []


async def test_hang_up_between_requests_closes_the_connection() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await read_body(receive)
        await answer(send, b"ok")

    async with listening(app) as house:
        before = descriptors()
        client = await house.connect()
        await client.send_all(GET)
        await read_until(client, b"ok")
        await client.aclose()
        await eventually(lambda: descriptors() <= before)


async def test_next_request_is_served_while_the_last_call_still_cleans_up() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await read_body(receive)
        await answer(send, scope["raw_path"])
        if scope["path"] == "/first":
            with trio.move_on_after(10, shield=True):
                await let_go.wait()
            raise RuntimeError("the clean-up failed")

    let_go = trio.Event()
    async with listening(app) as house, await house.connect() as client:
        await client.send_all(b"GET /first HTTP/1.1\r\nHost: g\r\n\r\n")
        await read_until(client, b"/first")
        await client.send_all(b"GET /second HTTP/1.1\r\nHost: g\r\n\r\n")
        await read_until(client, b"/second")
        let_go.set()
        await trio.testing.wait_all_tasks_blocked()
        await client.send_all(b"GET /third HTTP/1.1\r\nHost: g\r\n\r\n")
        await read_until(client, b"/third")
    assert len(house.crashes) == 1
    assert house.refusals == []
