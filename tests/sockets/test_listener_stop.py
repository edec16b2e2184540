"""Stopping: no new connections, running requests get their time and a last word, and it ends."""

import socket
from typing import Any

import pytest
import trio

from appliance.server.listener_limits import ListenerLimits
from appliance.server.listener_sockets import open_sockets
from tests.sockets.listening import (
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

GET = b"GET /a HTTP/1.1\r\nHost: g\r\n\r\n"


class Held:
    """Answers when it is let go."""

    def __init__(self) -> None:
        self.running = trio.Event()
        self.let_go = trio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await read_body(receive)
        self.running.set()
        await self.let_go.wait()
        await answer(send, b"done")


async def test_stop_refuses_new_connections_and_lets_the_running_request_end() -> None:
    app = Held()
    async with listening(app) as house, await house.connect() as client:
        await client.send_all(GET)
        await app.running.wait()
        house.stop.set()
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(OSError, match="connect"):
            await house.connect()
        app.let_go.set()
        with trio.fail_after(5):
            got = await read_to_end(client)
            await house.ended.wait()
    assert got.startswith(b"HTTP/1.1 200 ")
    assert b"connection: close\r\n" in got.lower()
    assert got.endswith(b"done")


async def test_stop_closes_idle_connections_at_once() -> None:
    async with listening(echo) as house, await house.connect() as idle, await house.connect() as fresh:
        await idle.send_all(GET)
        await read_until(idle, b"GET /a")
        house.stop.set()
        with trio.fail_after(2):
            assert await read_to_end(idle) == b""
            assert await read_to_end(fresh) == b""
            await house.ended.wait()


async def test_stream_that_began_before_the_stop_ends_its_connection_when_it_is_complete() -> None:
    async def stream(scope: Any, receive: Any, send: Any) -> None:
        await read_body(receive)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"one", "more_body": True})
        await let_go.wait()
        await send({"type": "http.response.body", "body": b"two", "more_body": False})

    let_go = trio.Event()
    async with listening(stream) as house, await house.connect() as client:
        await client.send_all(GET)
        await read_until(client, b"one")
        house.stop.set()
        await trio.testing.wait_all_tasks_blocked()
        let_go.set()
        with trio.fail_after(2):
            assert (await read_to_end(client)).endswith(b"two\r\n0\r\n\r\n")
            await house.ended.wait()


async def test_request_that_outlasts_the_drain_is_cancelled_and_answered_with_503() -> None:
    app = Held()
    async with listening(app, ListenerLimits(drain_s=0.05)) as house, await house.connect() as client:
        await client.send_all(GET)
        await app.running.wait()
        house.stop.set()
        with trio.fail_after(3):
            assert (await read_to_end(client)).startswith(b"HTTP/1.1 503 ")
            await house.ended.wait()
    assert [refusal.code for refusal in house.refusals] == ["shutting_down"]


async def test_stream_that_outlasts_the_drain_has_a_last_word() -> None:
    async def stream(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True})
        try:
            await trio.sleep_forever()
        finally:
            with trio.move_on_after(1, shield=True):
                await send({"type": "http.response.body", "body": b"data: stopped\n\n", "more_body": False})

    async with listening(stream, ListenerLimits(drain_s=0.05)) as house, await house.connect() as client:
        await client.send_all(GET)
        await read_until(client, b"data: 1")
        house.stop.set()
        with trio.fail_after(3):
            assert (await read_to_end(client)).endswith(b"data: stopped\n\n\r\n0\r\n\r\n")
            await house.ended.wait()


async def test_stop_with_a_stalled_reader_ends_within_drain_and_close() -> None:
    async def large(scope: Any, receive: Any, send: Any) -> None:
        await answer(send, b"x" * 50_000_000)

    async with listening(large, ListenerLimits(drain_s=0.1, close_s=0.1)) as house, await house.connect() as client:
        await client.send_all(GET)
        await read_until(client, b"x")
        house.stop.set()
        with trio.fail_after(3):
            await house.ended.wait()


async def test_clean_up_is_waited_for_after_its_connection_is_cut() -> None:
    async def careful(scope: Any, receive: Any, send: Any) -> None:
        await read_body(receive)
        try:
            running.set()
            await trio.sleep_forever()
        finally:
            with trio.move_on_after(10, shield=True):
                await let_go.wait()
                cleaned.append("slot back")

    running, let_go = trio.Event(), trio.Event()
    cleaned: list[str] = []
    async with listening(careful, ListenerLimits(drain_s=0.02, close_s=0.05)) as house:
        before = descriptors()
        client = await house.connect()
        await client.send_all(GET)
        await running.wait()
        house.stop.set()
        with trio.fail_after(5):
            assert await read_to_end(client) == b""  # cut after drain and close
            await client.aclose()
            await eventually(lambda: descriptors() < before)
            assert not house.ended.is_set()
            let_go.set()
            await house.ended.wait()
    assert cleaned == ["slot back"]


def test_taken_port_is_named_in_the_error() -> None:
    first = open_sockets("127.0.0.1", 0)
    port = first[0].getsockname()[1]
    with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1 port {port}: Address already in use"):
        open_sockets("127.0.0.1", port)
    first[0].close()


def test_unknown_host_is_named_in_the_error() -> None:
    with pytest.raises(OSError, match=r"cannot listen on 192\.0\.2\.1 port 0"):
        open_sockets("192.0.2.1", 0)


@pytest.fixture
def two_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that has two addresses, whatever this machine's IPv6 is like."""

    def resolve(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in ("127.0.0.1", "127.0.0.2")]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)


@pytest.mark.usefixtures("two_addresses")
def test_every_address_of_a_host_is_listened_on_with_one_port() -> None:
    opened = open_sockets("both", 0)
    assert len({one.getsockname()[1] for one in opened}) == 1
    assert [one.getsockname()[0] for one in opened] == ["127.0.0.1", "127.0.0.2"]
    for one in opened:
        one.close()


@pytest.mark.usefixtures("two_addresses")
def test_port_that_is_taken_on_one_address_is_an_error_and_leaves_nothing_open() -> None:
    before = descriptors()
    with socket.create_server(("127.0.0.2", 0)) as other:
        with pytest.raises(OSError, match="Address already in use"):
            open_sockets("both", other.getsockname()[1])
        assert descriptors() == before + 1
