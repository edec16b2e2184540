"""Deadlines: what a client owes has a time, what it does not owe has none. In memory, with a clock that jumps."""

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from appliance.server.listener_limits import ListenerLimits
from tests.sockets.listening import answer, echo, read_body
from tests.sockets.wire import wired

pytestmark = pytest.mark.usefixtures("http1")

LIMITS = ListenerLimits()
GET = b"GET /a HTTP/1.1\r\nHost: g\r\n\r\n"
POST = b"POST /a HTTP/1.1\r\nHost: g\r\nContent-Length: 100\r\n\r\n"


async def test_connection_that_sends_nothing_is_closed_after_the_head_timeout(autojump_clock: MockClock) -> None:
    async with wired(echo) as wire:
        start = trio.current_time()
        assert await wire.read() == b""
        assert trio.current_time() - start == LIMITS.head_timeout_s
        await wire.ended.wait()
    assert wire.refusals == []


async def test_head_that_drips_byte_by_byte_is_refused_after_five_seconds(autojump_clock: MockClock) -> None:
    async with wired(echo) as wire, trio.open_nursery() as nursery:
        start = trio.current_time()

        async def drip() -> None:
            for byte in GET:
                await wire.client.send_all(bytes([byte]))
                await trio.sleep(1)

        nursery.start_soon(drip)
        assert (await wire.read_until(b"\r\n\r\n")).startswith(b"HTTP/1.1 408 ")
        assert trio.current_time() - start == LIMITS.head_timeout_s
        nursery.cancel_scope.cancel()
    assert [refusal.code for refusal in wire.refusals] == ["request_timeout"]


async def test_head_of_a_later_request_has_its_five_seconds_from_its_first_byte(autojump_clock: MockClock) -> None:
    async with wired(echo) as wire:
        await wire.client.send_all(GET)
        await wire.read_until(b"GET /a ")
        await trio.sleep(LIMITS.idle_timeout_s - 1)
        await wire.client.send_all(b"GET")
        start = trio.current_time()
        assert (await wire.read()).startswith(b"HTTP/1.1 408 ")
        assert trio.current_time() - start >= LIMITS.head_timeout_s
        assert trio.current_time() - start <= LIMITS.head_timeout_s + 3


async def test_half_a_pipelined_head_has_its_five_seconds(autojump_clock: MockClock) -> None:
    async with wired(echo) as wire:
        await wire.client.send_all(GET + b"GET /half")
        got = await wire.read()
        assert trio.current_time() < LIMITS.idle_timeout_s
    assert b"HTTP/1.1 200 " in got
    assert b"HTTP/1.1 408 " in got


async def test_body_that_pauses_is_refused_after_ten_seconds(autojump_clock: MockClock) -> None:
    async with wired(echo) as wire:
        await wire.client.send_all(POST + b"half")
        assert (await wire.read_until(b"\r\n\r\n")).startswith(b"HTTP/1.1 408 ")
        assert trio.current_time() == LIMITS.body_idle_timeout_s
        with trio.fail_after(5):
            await wire.ended.wait()
    assert wire.crashes == []


async def test_body_that_drips_is_refused_after_sixty_seconds(autojump_clock: MockClock) -> None:
    async with wired(echo) as wire, trio.open_nursery() as nursery:

        async def drip() -> None:
            await wire.client.send_all(POST)
            for _ in range(99):
                await trio.sleep(5)
                await wire.client.send_all(b"x")

        nursery.start_soon(drip)
        assert (await wire.read_until(b"\r\n\r\n")).startswith(b"HTTP/1.1 408 ")
        assert trio.current_time() == LIMITS.body_total_timeout_s
        nursery.cancel_scope.cancel()


async def test_application_that_never_reads_a_large_body_does_not_keep_the_client_for_ever(
    autojump_clock: MockClock,
) -> None:
    async def idle(scope: Any, receive: Any, send: Any) -> None:
        await trio.sleep_forever()

    async with wired(idle) as wire:
        await wire.client.send_all(b"POST / HTTP/1.1\r\nHost: g\r\nContent-Length: 900000\r\n\r\n")
        for _ in range(8):
            await wire.client.send_all(b"x" * 100_000)
        assert (await wire.read()).startswith(b"HTTP/1.1 408 ")
        await wire.ended.wait()
        # the call was told, given its time, and cancelled
        assert trio.current_time() <= LIMITS.body_total_timeout_s + LIMITS.leave_s + 3


async def test_body_timeout_after_the_answer_began_closes_without_a_second_answer(autojump_clock: MockClock) -> None:
    async def early(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"early", "more_body": True})
        await read_body(receive)

    async with wired(early) as wire:
        await wire.client.send_all(POST)
        got = await wire.read()
    assert got.count(b"HTTP/1.1 ") == 1
    assert got.startswith(b"HTTP/1.1 200 ")
    assert not got.endswith(b"0\r\n\r\n")  # nothing pretends that the answer was complete
    assert wire.refusals == []


async def test_request_may_run_for_as_long_as_it_likes(autojump_clock: MockClock) -> None:
    async def slow(scope: Any, receive: Any, send: Any) -> None:
        await read_body(receive)
        await trio.sleep(3600)
        await answer(send, b"done")

    async with wired(slow) as wire:
        await wire.client.send_all(POST + b"x" * 100)
        got = await wire.client.receive_some()
        assert trio.current_time() >= 3600
    assert got.startswith(b"HTTP/1.1 200 ")


async def test_idle_connection_is_closed_after_its_timeout(autojump_clock: MockClock) -> None:
    async with wired(echo) as wire:
        await wire.client.send_all(GET)
        await wire.read_until(b"GET /a ")
        start = trio.current_time()
        assert await wire.read() == b""
        assert trio.current_time() - start == LIMITS.idle_timeout_s
        await wire.ended.wait()


async def test_reader_that_takes_nothing_is_cut_and_its_call_hears_of_it(autojump_clock: MockClock) -> None:
    heard: list[tuple[str, float]] = []

    async def stream(scope: Any, receive: Any, send: Any) -> None:
        await read_body(receive)
        async with trio.open_nursery() as nursery:

            async def listen() -> None:
                heard.append(((await receive())["type"], trio.current_time()))
                nursery.cancel_scope.cancel()

            nursery.start_soon(listen)
            await send({"type": "http.response.start", "status": 200, "headers": []})
            while True:
                await send({"type": "http.response.body", "body": b"x" * 100_000, "more_body": True})

    async with wired(stream, reads_nothing=True) as wire:
        await wire.client.send_all(GET)
        await wire.ended.wait()
        assert trio.current_time() - LIMITS.write_stall_timeout_s <= 2
    assert heard[0][0] == "http.disconnect"
    assert wire.crashes == []


async def test_call_that_does_not_listen_is_cancelled_some_time_after_its_client_is_gone(
    autojump_clock: MockClock,
) -> None:
    cleaned: list[str] = []

    async def deaf(scope: Any, receive: Any, send: Any) -> None:
        try:
            await trio.sleep_forever()
        finally:
            cleaned.append("cleaned")

    async with wired(deaf) as wire:
        await wire.client.send_all(GET)
        await trio.testing.wait_all_tasks_blocked()
        start = trio.current_time()
        wire.hang_up()
        await wire.ended.wait()
        assert trio.current_time() - start == LIMITS.leave_s
    assert cleaned == ["cleaned"]


async def test_shielded_clean_up_outlives_the_connection_and_is_waited_for(autojump_clock: MockClock) -> None:
    cleaned: list[str] = []

    async def careful(scope: Any, receive: Any, send: Any) -> None:
        await read_body(receive)
        assert (await receive())["type"] == "http.disconnect"
        with trio.move_on_after(60, shield=True):
            await trio.sleep(40)
            cleaned.append("native cancel confirmed")

    async with wired(careful) as wire:
        await wire.client.send_all(GET)
        await trio.testing.wait_all_tasks_blocked()
        wire.hang_up()
        assert wire.link.gone
        await wire.ended.wait()
    assert cleaned == ["native cancel confirmed"]


async def test_cancelled_stream_finishes_its_chunk_and_has_a_last_word(autojump_clock: MockClock) -> None:
    async def relay(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            while True:
                await send({"type": "http.response.body", "body": b"data: tick\n\n", "more_body": True})
        finally:
            with trio.move_on_after(1, shield=True):
                await send({"type": "http.response.body", "body": b"data: error\n\n", "more_body": False})

    async with wired(relay) as wire:
        await wire.client.send_all(GET)
        await wire.client.receive_some(100)
        wire.conversation.drain()
        wire.conversation.cancel_requests()
        got = await wire.read()
    assert got.endswith(b"data: error\n\n\r\n0\r\n\r\n")
    assert wire.refusals == []


async def test_call_hears_of_a_refused_body_before_the_client_has_closed(autojump_clock: MockClock) -> None:
    heard: list[float] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        heard.append(trio.current_time())

    async with wired(app) as wire:
        head = b"POST / HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\n\r\n"
        await wire.client.send_all(head + b"not a chunk\r\n")
        await wire.read_until(b"HTTP/1.1 400 ")
        await wire.ended.wait()
    assert heard == [0]


async def test_client_is_not_blamed_for_an_application_that_reads_late(autojump_clock: MockClock) -> None:
    async def late(scope: Any, receive: Any, send: Any) -> None:
        await trio.sleep(LIMITS.body_total_timeout_s - 1)
        await answer(send, b"%d" % len(await read_body(receive)))

    async with wired(late) as wire:
        await wire.client.send_all(b"POST / HTTP/1.1\r\nHost: g\r\nContent-Length: 500000\r\n\r\n")
        await wire.client.send_all(b"x" * 500_000)
        await wire.read_until(b"500000")
    assert wire.refusals == []
