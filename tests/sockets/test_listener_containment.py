"""Containment and the stock server's defects (platform.md), one test each: one client's trouble is nobody else's."""

import logging
from typing import Any

import pytest
import trio
from quart_trio import QuartTrio

from appliance.server import connection_lane
from appliance.server.connection_h11 import StrictConnection
from appliance.server.listener_limits import ListenerLimits
from appliance.server.strict import plain_head
from tests.sockets.listening import answer, descriptors, echo, eventually, listening, read_body, read_to_end, read_until

pytestmark = pytest.mark.usefixtures("http1")

GET = b"GET /health HTTP/1.1\r\nHost: g\r\nConnection: close\r\n\r\n"
UPGRADE = (
    b"GET / HTTP/1.1\r\nHost: g\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
MASKED_FRAME = b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58"


async def assert_alive(house: Any) -> None:
    assert (await house.exchange(GET)).startswith(b"HTTP/1.1 200 ")


async def test_defect_1_websocket_upgrade_with_a_frame_in_the_same_packet_kills_nobody() -> None:
    async with listening(echo) as house:
        for _ in range(5):
            client = await house.connect()
            await client.send_all(UPGRADE + MASKED_FRAME)
            await client.aclose()
        assert (await house.exchange(UPGRADE + MASKED_FRAME)).startswith(b"HTTP/1.1 400 ")
        await assert_alive(house)
    assert house.crashes == []


async def test_defect_2_stalled_readers_give_back_what_they_hold_and_do_not_hold_up_the_stop() -> None:
    slots = trio.CapacityLimiter(2)

    async def image(scope: Any, receive: Any, send: Any) -> None:
        await read_body(receive)
        async with slots:
            await answer(send, b"x" * 50_000_000)

    async with listening(image, ListenerLimits(write_stall_timeout_s=0.2, drain_s=0.2, close_s=0.2)) as house:
        stalled = [await house.connect() for _ in range(2)]
        for client in stalled:
            await client.send_all(GET)
        await eventually(lambda: slots.borrowed_tokens == 2)
        await eventually(lambda: slots.borrowed_tokens == 0)
        stalled.append(await house.connect())
        await stalled[-1].send_all(GET)
        house.stop.set()
        with trio.fail_after(5):
            await house.ended.wait()
        for client in stalled:
            await client.aclose()


async def test_stalled_reader_is_reset_so_that_the_kernel_drops_what_it_did_not_take() -> None:
    async def large(scope: Any, receive: Any, send: Any) -> None:
        await answer(send, b"x" * 50_000_000)

    async with listening(large, ListenerLimits(write_stall_timeout_s=0.1)) as house:
        before = descriptors()
        async with await house.connect() as client:
            await client.send_all(GET)
            await eventually(lambda: descriptors() > before + 1)
            await eventually(lambda: descriptors() == before + 1)
            with pytest.raises(trio.BrokenResourceError):
                await read_to_end(client)


async def test_defect_3_idle_connection_after_a_quart_request_is_closed() -> None:
    app = QuartTrio(__name__)

    @app.get("/")
    async def index() -> str:
        return "hello"

    async with listening(app, ListenerLimits(idle_timeout_s=0.5)) as house, await house.connect() as client:
        for _ in range(2):
            await client.send_all(b"GET / HTTP/1.1\r\nHost: g\r\n\r\n")
            await read_until(client, b"hello")
        with trio.fail_after(5):
            assert await read_to_end(client) == b""


async def test_defect_4_early_error_with_an_unread_body_is_received_and_the_connection_closed() -> None:
    async def refuse(scope: Any, receive: Any, send: Any) -> None:
        await answer(send, b"too large", 413)

    async with listening(refuse) as house:
        head = b"POST / HTTP/1.1\r\nHost: g\r\nContent-Length: 3000000\r\n\r\n"
        got = await house.exchange(head + b"x" * 3_000_000)
        assert got.startswith(b"HTTP/1.1 413 ")
        assert b"connection: close\r\n" in got.lower()
        assert (await house.exchange(head)).startswith(b"HTTP/1.1 413 ")
    assert house.refusals == []


async def test_defect_5_nothing_is_logged_by_hypercorn(capfd: pytest.CaptureFixture[str]) -> None:
    async def fail(scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError("secret detail")

    async with listening(fail) as house:
        await house.exchange(GET)
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger("hypercorn.error").handlers == []  # its default writes to stderr


@pytest.mark.parametrize(
    "error", [RuntimeError("boom"), SystemExit(3), BaseExceptionGroup("two", [ValueError("a"), OSError("b")])]
)
async def test_what_a_call_raises_is_reported_and_answered_and_hurts_nobody_else(error: BaseException) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/bad":
            raise error
        await echo(scope, receive, send)

    async with listening(app) as house, await house.connect() as other:
        await other.send_all(b"POST / HTTP/1.1\r\nHost: g\r\nContent-Length: 2\r\n\r\na")
        got = await house.exchange(b"GET /bad HTTP/1.1\r\nHost: g\r\n\r\n")
        assert got.startswith(b"HTTP/1.1 500 ")
        await other.send_all(b"b")
        await read_until(other, b"POST / ab")
    assert len(house.crashes) == 1
    assert [refusal.code for refusal in house.refusals] == ["internal_error"]


async def test_call_that_fails_after_its_answer_began_ends_the_connection_without_a_second_answer() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"some", "more_body": True})
        raise RuntimeError("boom")

    async with listening(app) as house:
        got = await house.exchange(GET)
    assert got.count(b"HTTP/1.1") == 1
    assert got.endswith(b"\r\n\r\n4\r\nsome\r\n")
    assert house.refusals == []


async def test_call_that_goes_on_sending_to_a_client_that_is_gone_is_ignored() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await read_body(receive)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        running.set()
        assert (await receive())["type"] == "http.disconnect"
        for _ in range(3):
            await answer(send, b"an error page that comes too late", 500)
        ended.set()

    running, ended = trio.Event(), trio.Event()
    async with listening(app) as house:
        client = await house.connect()
        await client.send_all(GET)
        with trio.fail_after(5):
            await running.wait()
            await client.aclose()
            await ended.wait()
    assert house.crashes == []


async def test_call_that_returns_without_an_answer_gets_one_from_the_listener() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await read_body(receive)

    async with listening(app) as house:
        assert (await house.exchange(GET)).startswith(b"HTTP/1.1 500 ")


async def test_exception_in_the_protocol_itself_is_reported_and_hurts_nobody_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    original = StrictConnection.next_event

    def next_event(self: StrictConnection) -> Any:
        if b"X-Bomb" in self.trailing_data[0]:
            raise ZeroDivisionError
        return original(self)

    def bomb(raw: bytes, **limits: int) -> Any:
        if b"X-Bomb" in raw:
            raise ZeroDivisionError
        return plain_head(raw, **limits)

    monkeypatch.setattr(StrictConnection, "next_event", next_event)
    monkeypatch.setattr(connection_lane, "plain_head", bomb)
    async with listening(echo) as house:
        assert await house.exchange(b"GET / HTTP/1.1\r\nHost: g\r\nX-Bomb: 1\r\n\r\n") == b""
        await assert_alive(house)
    assert len(house.crashes) == 1
