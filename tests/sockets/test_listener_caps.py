"""Caps from outside: too many connections and no descriptors left. Who runs a request is never sent away for it."""

import errno
import os
import struct
from typing import Any

import pytest
import trio

from appliance.server.listener_limits import ListenerLimits
from tests.sockets.listening import (
    House,
    answer,
    descriptors,
    echo,
    eventually,
    listening,
    read_body,
    read_to_end,
    read_until,
)

pytestmark = pytest.mark.usefixtures("http1")

GET = b"GET /health HTTP/1.1\r\nHost: g\r\nConnection: close\r\n\r\n"


async def assert_alive(house: House) -> None:
    assert (await house.exchange(GET)).startswith(b"HTTP/1.1 200 ")


async def test_connections_over_the_cap_replace_those_that_wait() -> None:
    async with listening(echo, ListenerLimits(max_connections=3)) as house:
        idle = [await house.connect() for _ in range(10)]
        await assert_alive(house)
        with trio.fail_after(5):
            assert await idle[0].receive_some() == b""
        for client in idle:
            await client.aclose()
    assert house.refusals == []


@pytest.mark.parametrize("status", [401, 505])
async def test_clients_that_stay_after_their_last_answer_make_room_too(status: int) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await answer(send, b"", 401 if scope["path"] == "/no" else 200)

    lasts = {
        401: b"POST /no HTTP/1.1\r\nHost: g\r\nContent-Length: 9\r\n\r\n",
        505: b"GET / HTTP/2.0\r\nHost: g\r\n\r\n",
    }
    async with listening(app, ListenerLimits(max_connections=2)) as house:
        stay = [await house.connect() for _ in range(2)]
        for client in stay:
            await client.send_all(lasts[status])
            assert (await read_to_end(client)).startswith(b"HTTP/1.1 %d " % status)
        before = descriptors()
        new = [await house.connect() for _ in range(2)]
        await eventually(
            lambda: descriptors() == before + 2, timeout_s=1
        )  # two clients more, on the places of those that stay
        for client in [*stay, *new]:
            await client.aclose()


async def test_connection_over_a_cap_of_running_requests_is_refused_with_503() -> None:
    async def wait(scope: Any, receive: Any, send: Any) -> None:
        running.append(1)
        await read_body(receive)
        await let_go.wait()
        await answer(send, b"ok")

    let_go = trio.Event()
    running: list[int] = []
    async with listening(wait, ListenerLimits(max_connections=2)) as house:
        busy = [await house.connect() for _ in range(2)]
        for client in busy:
            await client.send_all(GET)
        await eventually(lambda: len(running) == 2)
        async with await house.connect() as client:
            with trio.fail_after(5):
                assert (await read_to_end(client)).startswith(b"HTTP/1.1 503 ")
        let_go.set()
        for client in busy:
            await read_until(client, b"ok")
            await client.aclose()
        await assert_alive(house)
    assert [refusal.code for refusal in house.refusals] == ["too_many_connections"]


@pytest.mark.parametrize(
    "number", [errno.EMFILE, errno.ENFILE, errno.ECONNABORTED, errno.ENOBUFS, errno.EPROTO, errno.EINVAL]
)
async def test_failing_accept_is_tried_again(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with trio.socket.socket() as any_socket:
        kind: Any = type(any_socket)
    real = kind.accept
    failures = [OSError(number, os.strerror(number)) for _ in range(3)]

    async def accept(self: Any) -> Any:
        if failures:
            await trio.lowlevel.checkpoint()
            raise failures.pop()
        return await real(self)

    monkeypatch.setattr(kind, "accept", accept)
    async with listening(echo) as house:
        await assert_alive(house)
    assert failures == []


async def test_idle_connection_gives_its_descriptor_when_there_are_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    with trio.socket.socket() as any_socket:
        kind: Any = type(any_socket)
    real = kind.accept

    async def accept(self: Any) -> Any:
        accepted = await real(self)
        if idle and not out_of_descriptors:
            out_of_descriptors.append(1)
            accepted[0].close()
            raise OSError(errno.EMFILE, "Too many open files")
        return accepted

    idle: list[trio.SocketStream] = []
    out_of_descriptors: list[int] = []
    monkeypatch.setattr(kind, "accept", accept)
    async with listening(echo) as house:
        client = await house.connect()
        await client.send_all(b"GET /first HTTP/1.1\r\nHost: g\r\n\r\n")
        await read_until(client, b"GET /first")
        idle.append(client)
        async with await house.connect(), client:
            with trio.fail_after(2):
                assert await read_to_end(client) == b""
        await assert_alive(house)


async def test_connections_that_are_reset_at_once_hurt_nobody() -> None:
    async with listening(echo) as house:
        for _ in range(50):
            client = await house.connect()
            client.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, struct.pack("ii", 1, 0))
            await client.aclose()
        await assert_alive(house)
    assert house.crashes == []
