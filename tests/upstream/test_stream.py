"""Streams in memory: deadlines, interrupted reads, caps, and what leaving does, on a clock that jumps."""

import gc
import weakref
from contextlib import asynccontextmanager, suppress

import pytest
import trio
from trio.testing import memory_stream_pair, wait_all_tasks_blocked

from appliance.protocol.errors import UpstreamFailed, UpstreamTimeout
from appliance.upstream.bare import Alarms
from appliance.upstream.exchange import UpstreamCall
from appliance.upstream.pool import Pool
from appliance.upstream.stream_begin import OpenStream

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"


def chunk(data):
    return b"%x\r\n%s\r\n" % (len(data), data)


def call(**changes):
    return UpstreamCall(
        **{
            "backend_class": "gpu",
            "method": "POST",
            "url": "http://h:1/v1/x",
            "first_byte_s": 60,
            "idle_s": 30,
            "body": b"{}",
            **changes,
        }
    )


class Backend:
    """The other end of a stream in memory."""

    def __init__(self, *, connects_s=0.0):
        self.near, self.far = memory_stream_pair()
        self.connects_s = connects_s
        self.observed = []
        self.addresses = []
        self.pool = Pool(self.connect, Alarms())

    async def connect(self, address):
        self.addresses.append(address)
        await trio.sleep(self.connects_s)
        return self.near

    def open(self, request=None):
        return OpenStream(request or call(), self.pool, connect_s=2, observe=lambda *seen: self.observed.append(seen))

    async def says(self, *steps):
        """Bytes are sent, numbers are seconds to wait; a client that leaves ends it."""
        with suppress(trio.BrokenResourceError):
            for step in steps:
                if isinstance(step, bytes):
                    await self.far.send_all(step)
                else:
                    await trio.sleep(step)

    async def is_left(self):
        """Read what the client sent until it closes; a test's fail_after bounds it."""
        async for _ in self.far:
            pass


@asynccontextmanager
async def opened(nursery, *steps, request=None):
    backend = Backend()
    nursery.start_soon(backend.says, HEAD, *steps)
    async with backend.open(request) as stream:
        yield stream


async def everything(stream):
    pieces = []
    while piece := await stream.receive():
        pieces.append(piece)
    return pieces


async def test_stream_gives_what_each_read_held_and_its_end_for_ever(nursery, autojump_clock):
    steps = (1, chunk(b"a") + chunk(b"b"), 1, chunk(b"c")[:4], 1, chunk(b"c")[4:] + END)
    async with opened(nursery, *steps) as stream:
        assert (stream.status, stream.content_type, stream.retry_after) == (200, "text/event-stream", None)
        assert await everything(stream) == [b"ab", b"c"]
        assert await stream.receive() == b""


async def test_request_is_written_in_full(nursery, autojump_clock):
    backend = Backend()
    nursery.start_soon(backend.says, HEAD)
    request = call(url="http://u:p%40ss@h:1/v1/x?y=z", headers={"Content-Type": "application/json"})
    async with backend.open(request):
        sent = bytes(await backend.far.receive_some())
    head, _, body = sent.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0] == b"POST /v1/x?y=z HTTP/1.1"
    assert body == b"{}"
    assert {
        b"Host: h:1",
        b"Connection: close",
        b"Accept-Encoding: identity",
        b"Content-Type: application/json",
        b"Content-Length: 2",
        b"Authorization: Basic dTpwQHNz",
    } <= set(lines)


@pytest.mark.parametrize(
    ("url", "authority", "where"),
    [
        ("http://h/", b"Host: h\r\n", ("http", "h", 80)),
        ("https://h/", b"Host: h\r\n", ("https", "h", 443)),
        ("http://[::1]:9/", b"Host: [::1]:9\r\n", ("http", "::1", 9)),
        ("http://bücher.example:9/ä b", b"Host: xn--bcher-kva.example:9\r\n", ("http", "xn--bcher-kva.example", 9)),
    ],
)
async def test_address_is_named_as_http_wants_it(nursery, autojump_clock, url, authority, where):
    backend = Backend()
    nursery.start_soon(backend.says, HEAD)
    async with backend.open(call(url=url)):
        assert authority in await backend.far.receive_some()
    address = backend.addresses[0]
    assert (address.scheme, address.host, address.port) == where


@pytest.mark.parametrize("header", ["a\r\nX-Evil: b", "a\nb", "a\rb", "a\0b", "☃"])
async def test_header_that_would_end_its_line_is_never_sent(autojump_clock, header):
    backend = Backend()
    with pytest.raises(UpstreamFailed, match="cannot be sent this request"):
        async with backend.open(call(headers={"X": header})):
            pass
    assert not backend.addresses


async def test_connect_deadline_is_named(autojump_clock):
    backend = Backend(connects_s=9)
    started = trio.current_time()
    with pytest.raises(UpstreamTimeout, match=r"took no connection within 2 s \(connect deadline\)"):
        async with backend.open():
            pass
    assert trio.current_time() - started == 2


SILENCES = {
    "before the head": ((), 60, "did not answer within 60 s", "first byte"),
    "in the head": ((HEAD[:30],), 60, "did not answer within 60 s", "first byte"),
    "dripping informational heads": (
        tuple(step for _ in range(100) for step in (b"HTTP/1.1 102 Processing\r\n\r\n", 1)),
        60,
        "did not answer",
        "first byte",
    ),
    "after the head": ((5, HEAD), 60, "did not answer within 60 s", "first byte"),
    "after a piece": ((5, HEAD + chunk(b"a")), 35, "fell silent for 30 s", "idle"),
    "in a chunk": ((5, HEAD + chunk(b"a"), 2, b"5\r\nhe"), 37, "fell silent for 30 s", "idle"),
    "before the end": ((5, HEAD + chunk(b"a") + b"0\r\n"), 35, "fell silent for 30 s", "idle"),
    "dripping framing": (
        (HEAD + chunk(b"a") + b"5;", *(step for _ in range(100) for step in (b"x", 1))),
        30,
        "fell silent for 30 s",
        "idle",
    ),
}


@pytest.mark.parametrize("phase", SILENCES)
async def test_silence_in_each_phase_has_its_deadline(nursery, autojump_clock, phase):
    steps, seconds, words, deadline = SILENCES[phase]
    backend = Backend()
    nursery.start_soon(backend.says, *steps)
    started = trio.current_time()
    with pytest.raises(UpstreamTimeout, match=rf"gpu {words}.*\({deadline} deadline\)"):
        async with backend.open() as stream:
            await everything(stream)
    assert trio.current_time() - started == pytest.approx(seconds)
    nursery.cancel_scope.cancel()


async def test_total_deadline_is_named_when_it_comes_first(nursery, autojump_clock):
    steps = [step for _ in range(100) for step in (chunk(b"a"), 1)]
    started = trio.current_time()
    with pytest.raises(UpstreamTimeout, match=r"within 20 s \(total deadline\)"):
        async with opened(nursery, *steps, request=call(total_s=20)) as stream:
            await everything(stream)
    assert trio.current_time() - started == 20
    nursery.cancel_scope.cancel()


async def test_long_stream_without_silence_is_never_cut(nursery, autojump_clock):
    steps = [step for _ in range(60) for step in (29, chunk(b"a"))]
    async with opened(nursery, *steps, END) as stream:
        assert await everything(stream) == [b"a"] * 60


async def test_timeout_is_told_again_to_whoever_asks_again(nursery, autojump_clock):
    async with opened(nursery, chunk(b"a")) as stream:
        await stream.receive()
        for _ in range(2):
            with pytest.raises(UpstreamTimeout, match="fell silent for 30 s"):
                await stream.receive()


async def test_failure_is_told_again_to_whoever_asks_again(nursery, autojump_clock):
    async with opened(nursery, chunk(b"a") + b"zz\r\n") as stream:
        assert await stream.receive() == b"a"
        for _ in range(2):
            with pytest.raises(UpstreamFailed, match="gpu answered something that is not valid HTTP"):
                await stream.receive()


@pytest.mark.parametrize("every_s", [0.3, 1.0, 7.0])
async def test_interrupted_reads_lose_nothing(nursery, autojump_clock, every_s):
    wire = b"".join(chunk(b"%d;" % number) for number in range(40)) + END
    steps = [step for at in range(0, len(wire), 3) for step in (wire[at : at + 3], 0.5)]
    got = b""
    async with opened(nursery, *steps) as stream:
        while True:
            piece = None
            with trio.move_on_after(every_s):
                piece = await stream.receive()
            if piece == b"":
                break
            got += piece or b""
    assert got == b"".join(b"%d;" % number for number in range(40))


@pytest.mark.parametrize("ping_s", [7.0, 15.0])
async def test_interrupted_reads_do_not_prolong_a_silence(nursery, autojump_clock, ping_s):
    async with opened(nursery, chunk(b"a")) as stream:
        await stream.receive()
        started = trio.current_time()
        with pytest.raises(UpstreamTimeout, match="fell silent for 30 s"):
            while True:
                with trio.move_on_after(ping_s):
                    await stream.receive()
        assert trio.current_time() - started == 30


async def test_time_in_which_nobody_reads_is_not_the_backends_silence(nursery, autojump_clock):
    async with opened(nursery, chunk(b"a"), 20, chunk(b"b"), END) as stream:
        assert await stream.receive() == b"a"
        with trio.move_on_after(15):
            await stream.receive()
        await trio.sleep(1000)  # a client that takes its time with a ping
        assert await stream.receive() == b"b"


async def test_stream_may_be_left_in_another_task_than_it_was_entered(nursery, autojump_clock):
    backend = Backend()
    nursery.start_soon(backend.says, HEAD)
    manager = backend.open()
    with trio.CancelScope():  # the enterer's own scope is closed before the stream is
        stream = await manager.__aenter__()
    nursery.start_soon(manager.__aexit__, None, None, None)
    await wait_all_tasks_blocked()
    with pytest.raises(trio.ClosedResourceError):
        await stream._connection.receive_some()


@pytest.mark.parametrize("phase", ["connecting", "waiting for the head", "in the head", "in the body"])
async def test_cancelled_stream_closes_its_connection_at_once(nursery, autojump_clock, phase):
    backend = Backend(connects_s=1 if phase == "connecting" else 0)
    steps = {"in the head": (HEAD[:30],), "in the body": (HEAD + chunk(b"a"),)}.get(phase, ())
    nursery.start_soon(backend.says, *steps)
    with trio.CancelScope() as scope:
        nursery.start_soon(_cancel_when_blocked, scope)
        async with backend.open() as stream:
            await everything(stream)
    assert scope.cancelled_caught
    if phase != "connecting":  # a connection that is not made yet is closed by whoever makes it
        with trio.fail_after(0.001):
            await backend.is_left()


async def _cancel_when_blocked(scope):
    await wait_all_tasks_blocked()
    scope.cancel()


async def test_leaving_with_an_unread_rest_closes_at_once(nursery, autojump_clock):
    backend = Backend()
    nursery.start_soon(backend.says, HEAD + chunk(b"a") * 100)
    async with backend.open() as stream:
        await stream.receive()
    with trio.fail_after(0.001):
        await backend.is_left()


async def test_whole_body_is_read_within_its_cap(nursery, autojump_clock):
    async with opened(nursery, chunk(b"a" * 50), 1, chunk(b"b" * 50) + END) as stream:
        assert await stream.read_all(100) == b"a" * 50 + b"b" * 50


@pytest.mark.parametrize("head", [HEAD, b"HTTP/1.1 200 OK\r\nContent-Length: 101\r\n\r\n"])
async def test_body_beyond_its_cap_is_a_failure(nursery, autojump_clock, head):
    backend = Backend()
    nursery.start_soon(backend.says, head, *([chunk(b"a" * 101) + END] if head is HEAD else []))
    async with backend.open() as stream:
        with pytest.raises(UpstreamFailed, match="answered more than 100 bytes"):
            await stream.read_all(100)


async def test_start_of_a_refusal_is_kept_whatever_becomes_of_the_rest(nursery, autojump_clock):
    async with opened(nursery, chunk(b"no such model") + b"zz\r\n") as stream:
        assert await stream.read_start(7) == b"no such"
    async with opened(nursery, chunk(b"no such model") + b"zz\r\n") as stream:
        assert await stream.read_start(1000) == b"no such model"
    async with opened(nursery, chunk(b"no such model")) as stream:
        assert await stream.read_start(1000) == b"no such model"


async def test_latency_to_the_head_is_observed_once(nursery, autojump_clock):
    backend = Backend(connects_s=1)
    nursery.start_soon(backend.says, 3, HEAD + END)
    async with backend.open() as stream:
        await everything(stream)
    assert backend.observed == [("gpu", 3)]


async def test_backend_is_told_of_before_the_first_byte_goes_out(nursery, autojump_clock):
    told = []
    backend = Backend(connects_s=1)
    nursery.start_soon(backend.says, 5, HEAD)
    async with backend.open(call(on_connected=lambda: told.append(trio.current_time()))):
        pass
    assert told == [1]


async def test_closed_stream_leaves_nothing_to_the_garbage_collector(nursery, autojump_clock):
    gc.disable()
    try:
        async with opened(nursery, chunk(b"a") + END) as stream:
            await everything(stream)
            reader = weakref.ref(stream._reader)
        del stream
        assert reader() is None
    finally:
        gc.enable()
