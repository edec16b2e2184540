"""The lane and its border: what is plain stays in it, what is unusual changes over, and nothing gets lost on the way."""

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from appliance.server import connection_lane
from appliance.server.connection_lane_call import LaneCall
from appliance.server.listener_limits import ListenerLimits
from tests.sockets.listening import answer, echo, listening, read_body, read_to_end, read_until
from tests.sockets.wire import wired

GET = b"GET /a HTTP/1.1\r\nHost: g\r\n\r\n"
CHUNKED = b"POST /c HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
LAST = b"GET /z HTTP/1.1\r\nHost: g\r\nConnection: close\r\n\r\n"


@pytest.fixture
def stock_made(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """What hypercorn's conversations were given to begin with."""
    made: list[bytes] = []
    run = connection_lane.HypercornConversation.run

    async def note(self: Any, received: bytes = b"", head_deadline: float | None = None) -> None:
        made.append(received)
        await run(self, received, head_deadline)

    monkeypatch.setattr(connection_lane.HypercornConversation, "run", note)
    return made


async def test_plain_requests_stay_in_the_lane(stock_made: list[bytes]) -> None:
    async with listening(echo) as house:
        post = b"POST /p HTTP/1.1\r\nHost: g\r\nContent-Length: 3\r\n\r\nabc"
        got = await house.exchange(GET + post + GET + LAST)
    assert got.count(b"HTTP/1.1 200 OK") == 4
    assert stock_made == []


async def test_unusual_request_behind_plain_ones_changes_over_with_every_byte(stock_made: list[bytes]) -> None:
    async with listening(echo) as house:
        got = await house.exchange(GET + CHUNKED + GET + LAST)
    assert stock_made == [CHUNKED + GET + LAST]
    assert got.count(b"HTTP/1.1 200 ") == 4
    places = [got.index(mark) for mark in (b"GET /a ", b"POST /c abc", b"GET /z ")]
    assert places == sorted(places)


async def test_head_in_two_packets_changes_over(stock_made: list[bytes]) -> None:
    async with listening(echo) as house, await house.connect() as client:
        await client.send_all(GET[:20])
        await trio.testing.wait_all_tasks_blocked(0.01)
        await client.send_all(GET[20:])
        await read_until(client, b"GET /a ")
    assert stock_made == [GET[:20]]


async def test_hang_up_after_changing_over_is_heard(stock_made: list[bytes]) -> None:
    async def wait(scope: Any, receive: Any, send: Any) -> None:
        await read_body(receive)
        running.set()
        assert (await receive())["type"] == "http.disconnect"
        heard.set()

    running, heard = trio.Event(), trio.Event()
    async with listening(wait) as house:
        client = await house.connect()
        with trio.fail_after(5):
            await client.send_all(CHUNKED)
            await running.wait()
            await client.aclose()
            await heard.wait()
    assert stock_made == [CHUNKED]


async def test_stop_reaches_who_changed_over(stock_made: list[bytes]) -> None:
    async def wait(scope: Any, receive: Any, send: Any) -> None:
        await read_body(receive)
        running.set()
        await trio.sleep_forever()

    running = trio.Event()
    async with listening(wait, ListenerLimits(drain_s=0.05)) as house, await house.connect() as client:
        await client.send_all(CHUNKED)
        await running.wait()
        house.stop.set()
        with trio.fail_after(3):
            assert (await read_to_end(client)).startswith(b"HTTP/1.1 503 ")
            await house.ended.wait()
    assert len(stock_made) == 1


async def test_large_body_is_pulled_as_the_application_reads() -> None:
    size = 5_000_000
    sizes: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        more = True
        while more:
            message = await receive()
            sizes.append(len(message["body"]))
            more = message["more_body"]
        await answer(send, b"%d" % sum(sizes))

    async with listening(app) as house:
        head = b"POST / HTTP/1.1\r\nHost: g\r\nContent-Length: %d\r\n\r\n" % size
        got = await house.exchange(head + b"x" * size + LAST)
    assert got.count(b"HTTP/1.1 200 ") == 2
    assert max(sizes) <= 65_536
    assert sum(sizes) == size


class SilentLane:
    """A connection of which nothing more will come, and whose call has not been told yet."""

    async def read_body(self, left: int) -> bytes:
        await trio.lowlevel.checkpoint()
        return b""

    async def line_up(self) -> None:
        raise AssertionError("nothing is answered here")

    async def write(self, data: bytes) -> None:
        raise AssertionError("nothing is answered here")

    def is_last(self, left: int) -> bool:
        return True

    def note_answered(self) -> None:
        raise AssertionError("nothing is answered here")


async def test_body_that_will_not_come_is_waited_for_until_the_call_is_told(nursery: trio.Nursery) -> None:
    heard: list[Any] = []

    async def listen() -> None:
        heard.append(await call.receive())

    call = LaneCall(SilentLane(), trio.CancelScope(), head_only=False, length=5)
    nursery.start_soon(listen)
    await trio.testing.wait_all_tasks_blocked()
    assert heard == []
    call.leave(1)
    await trio.testing.wait_all_tasks_blocked()
    assert heard == [{"type": "http.disconnect"}]


async def test_application_that_goes_on_after_its_last_answer_does_not_keep_the_connection(
    autojump_clock: MockClock,
) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await read_body(receive)
        await answer(send, b"ok")
        await trio.sleep(100)

    async with wired(app) as wire:
        await wire.client.send_all(LAST)
        assert (await wire.read()).endswith(b"ok")
        assert trio.current_time() < 5
        await wire.ended.wait()
        assert trio.current_time() >= 100


async def test_application_that_goes_on_after_its_answer_is_not_cancelled_by_the_next_hang_up(
    autojump_clock: MockClock,
) -> None:
    ended: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await read_body(receive)
        await answer(send, scope["raw_path"])
        if scope["path"] == "/a":
            await trio.sleep(100)
            ended.append("by itself")

    async with wired(app) as wire:
        await wire.client.send_all(GET)
        await wire.read_until(b"/a")
        await wire.client.send_all(LAST)
        await wire.read_until(b"/z")
        wire.hang_up()
        await wire.ended.wait()
    assert ended == ["by itself"]
    assert trio.current_time() >= 100


async def test_endless_application_lets_the_others_run() -> None:
    async def endless(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/a":
            await send({"type": "http.response.start", "status": 200, "headers": []})
            while not stop.is_set():  # never waits for anything else
                await send({"type": "http.response.body", "body": b"", "more_body": True})
        await answer(send, b"other") if scope["path"] != "/a" else None

    stop = trio.Event()
    async with listening(endless) as house, await house.connect() as client:
        await client.send_all(GET)
        assert (await house.exchange(LAST)).endswith(b"other")
        stop.set()


async def test_body_that_is_too_late_is_refused_once_while_its_reader_waits(autojump_clock: MockClock) -> None:
    async with wired(echo) as wire:
        await wire.client.send_all(b"POST / HTTP/1.1\r\nHost: g\r\nContent-Length: 9\r\n\r\nx")
        got = await wire.read()
        await wire.ended.wait()
    assert got.count(b"HTTP/1.1 408 ") == 1
    assert [refusal.running is not None for refusal in wire.refusals] == [True]
    assert wire.crashes == []


class LeftInLine(SilentLane):
    """A connection whose client goes while the answer waits for its turn."""

    call: LaneCall

    async def line_up(self) -> None:
        await trio.lowlevel.checkpoint()
        self.call.leave(1.0)

    async def write(self, data: bytes) -> None:
        await trio.lowlevel.checkpoint()


async def test_a_client_that_goes_while_its_answer_lines_up_was_not_answered() -> None:
    lane = LeftInLine()
    call = lane.call = LaneCall(lane, trio.CancelScope(), head_only=False, length=0)
    left: list[bool] = []
    call.call_when_left(lambda: left.append(True))
    await call.answer(200, [(b"content-length", b"2")], b"ok")
    assert call.closed
    assert left == [True]
