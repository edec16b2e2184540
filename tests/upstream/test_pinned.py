"""Pinned exchanges: only the given addresses are dialled, the answer is bounded, the connection is always closed."""

import errno
import ssl
from contextlib import suppress
from dataclasses import replace

import outcome
import pytest
import trio
import trio.testing
import trustme
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.upstream import pinned
from appliance.upstream.pinned import CONNECT_S, PinnedAnswer, PinnedFailed, PinnedRequest, exchange_pinned
from tests.fakes.http import Request, open_server

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
CAP = 100


def request(port: int = 80, **changes: object) -> PinnedRequest:
    plain = PinnedRequest(
        method="GET",
        addresses=["127.0.0.1"],
        port=port,
        name="box.local",
        authority=f"box.local:{port}",
        path="/a?b=c",
        headers={},
        max_body_bytes=CAP,
    )
    return replace(plain, **changes)  # type: ignore[arg-type] # by name


class Server:
    """The other end of a connection in memory; dials are remembered."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, *, refuses: tuple[str, ...] = (), hangs: tuple[str, ...] = ()
    ) -> None:
        self.near, self.far = trio.testing.memory_stream_pair()
        self.dialled: list[tuple[str, int]] = []
        self._refuses, self._hangs = refuses, hangs
        monkeypatch.setattr(pinned, "connect_tcp", self._connect)

    async def _connect(self, host: str, port: int) -> trio.abc.Stream:
        self.dialled.append((host, port))
        await trio.lowlevel.checkpoint()
        if host in self._refuses:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "refused")
        if host in self._hangs:
            await trio.sleep_forever()
        return self.near

    async def say(self, *steps: bytes | float, close: bool = True) -> None:
        """Bytes are sent, numbers are seconds to wait; a client that leaves ends it."""
        with suppress(trio.BrokenResourceError):
            for step in steps:
                if isinstance(step, bytes):
                    await self.far.send_all(step)
                else:
                    await trio.sleep(step)
        if close:
            await self.far.send_stream.aclose()

    async def heard(self) -> bytes:
        """What the client sent until it closed its side; the test's deadline bounds it."""
        found = b""
        with suppress(trio.BrokenResourceError):
            async for data in self.far.receive_stream:
                found += data
        return found


async def answer_to(monkeypatch: pytest.MonkeyPatch, *steps: bytes | float, **changes: object) -> PinnedAnswer:
    server = Server(monkeypatch)
    result: outcome.Outcome[PinnedAnswer] | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.say, *steps)
        result = await outcome.acapture(exchange_pinned, request(**changes), None)  # outside of the nursery it is bare
        with trio.fail_after(0.001):
            await server.heard()
        nursery.cancel_scope.cancel()
    return result.unwrap()


async def test_request_is_written_in_full(monkeypatch: pytest.MonkeyPatch, autojump_clock: object) -> None:
    server = Server(monkeypatch)
    headers = {"accept": "text/html", "X-Mine": "1", "Accept-Encoding": "gzip", "Connection": "keep-alive"}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.say, OK + b"Content-Length: 0\r\n\r\n")
        await exchange_pinned(request(8080, headers=headers), None)
    heard = await server.heard()
    lines = heard.decode().split("\r\n")
    assert lines[0] == "GET /a?b=c HTTP/1.1"
    assert sorted(lines[1:-2]) == [
        "Accept-Encoding: identity", "Connection: close", "Host: box.local:8080", "User-Agent: appliance", "X-Mine: 1", "accept: text/html",
    ]  # fmt: skip
    assert lines[-2:] == ["", ""]


@pytest.mark.parametrize("header", ["a\r\nX-Evil: b", "a\nb", "a\rb", "a\0b", "☃"])
async def test_header_that_would_end_its_line_is_never_sent(monkeypatch: pytest.MonkeyPatch, header: str) -> None:
    server = Server(monkeypatch)
    with pytest.raises(PinnedFailed) as caught:
        await exchange_pinned(request(headers={"X": header}), None)
    assert caught.value.kind == "unsendable"
    assert server.dialled == []


WHOLE = {
    "a length": (OK + b"Content-Length: 2\r\nContent-Type: text/plain\r\n\r\nhi", b"hi"),
    "chunks": (CHUNKED + b"2\r\nhi\r\n0\r\n\r\n", b"hi"),
    "until close": (OK + b"\r\nhi", b"hi"),
    "exactly the cap": (OK + b"Content-Length: 100\r\n\r\n" + b"x" * CAP, b"x" * CAP),
    "exactly the cap in chunks": (CHUNKED + b"64\r\n" + b"x" * CAP + b"\r\n0\r\n\r\n", b"x" * CAP),
    "exactly the cap until close": (OK + b"\r\n" + b"x" * CAP, b"x" * CAP),
    "nothing": (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
    "not modified, with the length it would have": (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", b""),
    "an error": (b"HTTP/1.1 500 No\r\nContent-Length: 2\r\n\r\nno", b"no"),
    "informational first": (b"HTTP/1.1 103 Early\r\nLink: x\r\n\r\n" + OK + b"Content-Length: 2\r\n\r\nhi", b"hi"),
}


@pytest.mark.parametrize("name", WHOLE)
async def test_answer_within_the_cap_is_whole(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: object, name: str
) -> None:
    wire, body = WHOLE[name]
    answer = await answer_to(monkeypatch, wire)
    assert (answer.body, answer.truncated) == (body, False)
    assert answer.io_bytes > len(wire)


CUT = {
    "an announced length": OK + b"Content-Length: 101\r\n\r\n" + b"x" * 101,
    "a length of which the cap came": OK + b"Content-Length: 5000000000\r\n\r\n" + b"x" * CAP,
    "chunks": CHUNKED + b"65\r\n" + b"x" * 101 + b"\r\n",
    "no end": OK + b"\r\n" + b"x" * 101,
    "garbage after it": CHUNKED + b"65\r\n" + b"x" * 101 + b"garbage",
}


@pytest.mark.parametrize("name", CUT)
async def test_answer_beyond_the_cap_is_cut_and_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: object, name: str
) -> None:
    with trio.fail_after(1):
        answer = await answer_to(monkeypatch, CUT[name], 1000.0)
    assert (answer.body, answer.truncated) == (b"x" * CAP, True)


async def test_body_without_end_is_read_no_further(monkeypatch: pytest.MonkeyPatch, autojump_clock: object) -> None:
    server = Server(monkeypatch)
    sent = 0

    async def flood() -> None:
        nonlocal sent
        with suppress(trio.BrokenResourceError):
            await server.far.send_all(OK + b"\r\n")
            while True:
                await server.far.send_all(b"x" * 1000)
                sent += 1000

    async with trio.open_nursery() as nursery:
        nursery.start_soon(flood)
        answer = await exchange_pinned(request(), None)
        nursery.cancel_scope.cancel()
    assert answer.truncated
    assert answer.io_bytes < pinned.RECEIVE_BYTES * 2


@pytest.mark.parametrize(("cap", "truncated"), [(0, True), (1, True), (2, False)])
async def test_cap_may_be_nothing(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: object, cap: int, truncated: bool
) -> None:
    answer = await answer_to(monkeypatch, OK + b"Content-Length: 2\r\n\r\nhi", max_body_bytes=cap)
    assert (answer.body, answer.truncated) == (b"hi"[:cap], truncated)


@pytest.mark.parametrize("status", [300, 301, 302, 303, 307, 308])
async def test_redirect_is_the_answer_and_nobody_goes_there(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: object, status: int
) -> None:
    server = Server(monkeypatch)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(
            server.say, b"HTTP/1.1 %d X\r\nLocation: http://127.0.0.1/\r\nContent-Length: 0\r\n\r\n" % status
        )
        answer = await exchange_pinned(request(), None)
    assert (answer.head.status, answer.head.location) == (status, "http://127.0.0.1/")
    assert len(server.dialled) == 1


@pytest.mark.parametrize("framing", [b"Content-Length: 5000\r\n", b"Transfer-Encoding: chunked\r\n", b""])
async def test_head_is_answered_without_a_body(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: object, framing: bytes
) -> None:
    with trio.fail_after(1):
        answer = await answer_to(monkeypatch, OK + framing + b"\r\n", 1000.0, method="HEAD")
    assert (answer.head.status, answer.body, answer.truncated) == (200, b"", False)


HOSTILE = {
    "not HTTP": b"SSH-2.0-OpenSSH_9.6\r\n",
    "nothing": b"",
    "half a head": OK + b"Content-Ty",
    "half a body": OK + b"Content-Length: 5\r\n\r\nhi",
    "half a chunk": CHUNKED + b"5\r\nhi",
    "no last chunk": CHUNKED + b"2\r\nhi\r\n",
    "a bad chunk": CHUNKED + b"zz\r\nhi\r\n",
    "a length and chunks": OK + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
    "two lengths": OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nhi",
    "gzip": OK + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\nhi",
    "another transfer encoding": OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "a switch": b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    "a huge header": OK + b"X: " + b"a" * 200_000,
    "endless headers": OK + b"X: a\r\n" * 50_000,
    "endless informational answers": b"HTTP/1.1 103 Early\r\n\r\n" * 10_000,
    "an endless chunk extension": CHUNKED + b"5;" + b"x" * 200_000,
    "endless trailers": CHUNKED + b"2\r\nhi\r\n0\r\n" + b"X: a\r\n" * 50_000,
    "a bare line feed": b"HTTP/1.1 200 OK\nContent-Length: 2\n\nhi",
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_hostile_answer_is_a_failure_in_words(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: object, name: str
) -> None:
    with pytest.raises(PinnedFailed) as caught:
        await answer_to(monkeypatch, HOSTILE[name])
    assert caught.value.kind == "bad_answer"


@settings(deadline=None)
@given(data=st.binary(max_size=200), head=st.booleans())
def test_any_bytes_are_an_answer_or_a_failure(data: bytes, head: bool) -> None:
    async def main() -> None:
        with pytest.MonkeyPatch.context() as monkeypatch, suppress(PinnedFailed):
            answer = await answer_to(monkeypatch, OK + data if head else data)
            assert len(answer.body) <= CAP

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


async def test_addresses_are_tried_in_their_order(monkeypatch: pytest.MonkeyPatch, autojump_clock: object) -> None:
    server = Server(monkeypatch, refuses=("::1",), hangs=("10.0.0.1",))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.say, OK + b"Content-Length: 0\r\n\r\n")
        started = trio.current_time()
        await exchange_pinned(request(81, addresses=["::1", "10.0.0.1", "127.0.0.1", "127.0.0.2"]), None)
    assert server.dialled == [("::1", 81), ("10.0.0.1", 81), ("127.0.0.1", 81)]
    assert trio.current_time() - started == pytest.approx(CONNECT_S)


async def test_nobody_there_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    Server(monkeypatch, refuses=("::1", "127.0.0.1"))
    with pytest.raises(PinnedFailed) as caught:
        await exchange_pinned(request(addresses=["::1", "127.0.0.1"]), None)
    assert caught.value.kind == "unreachable"


MOMENTS = {
    "connecting": (),
    "waiting for the head": (1000.0,),
    "in the head": (OK, 1000.0),
    "in the body": (OK + b"Content-Length: 9\r\n\r\nhi", 1000.0),
    "in a drip": tuple(step for _ in range(1000) for step in (b"HTTP/1.1 103 E\r\n\r\n", 1.0)),
}


@pytest.mark.parametrize("moment", MOMENTS)
async def test_deadline_of_the_caller_closes_the_connection_at_any_moment(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: object, moment: str
) -> None:
    server = Server(monkeypatch, hangs=("127.0.0.1",) if moment == "connecting" else ())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.say, *MOMENTS[moment])
        with trio.move_on_after(5) as scope:
            await exchange_pinned(request(), None)
        assert scope.cancelled_caught
        assert trio.current_time() == pytest.approx(5)
        if moment != "connecting":
            with trio.fail_after(0.001):
                await server.heard()
        nursery.cancel_scope.cancel()


async def _answer(one: Request) -> None:
    await one.respond(200, (one.header("host") or "").encode())


def _tls(authority: trustme.CA, name: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return server, client


@pytest.mark.parametrize(("certified", "asked", "believed"), [
    ("box.local", "box.local", True), ("127.0.0.1", "127.0.0.1", True), ("other.local", "box.local", False), ("127.0.0.1", "box.local", False),
])  # fmt: skip
async def test_certificate_must_be_for_the_name_and_not_for_the_address(
    certified: str, asked: str, believed: bool
) -> None:
    server_tls, client_tls = _tls(trustme.CA(), certified)
    async with open_server(_answer, ssl_context=server_tls) as server:
        one = request(server.port, name=asked, authority=asked)
        if believed:
            assert (await exchange_pinned(one, client_tls)).body == asked.encode()
        else:
            with pytest.raises(PinnedFailed) as caught:
                await exchange_pinned(one, client_tls)
            assert caught.value.kind == "tls_failed"
        with trio.fail_after(5):
            await server.statistics.until_no_connections()


async def test_unknown_authority_and_plain_server_are_not_believed() -> None:
    server_tls, _ = _tls(trustme.CA(), "box.local")
    for context in (server_tls, None):
        async with open_server(_answer, ssl_context=context) as server:
            with pytest.raises(PinnedFailed) as caught:
                await exchange_pinned(request(server.port), ssl.create_default_context())
            assert caught.value.kind == "tls_failed"


async def test_reset_in_the_middle_is_a_failure() -> None:
    async def reset(one: Request) -> None:
        await one.send_raw(OK + b"Content-Length: 9\r\n\r\nhi")
        await trio.testing.wait_all_tasks_blocked()
        one.reset()

    async with open_server(reset) as server:
        with pytest.raises(PinnedFailed) as caught:
            await exchange_pinned(request(server.port), None)
        assert caught.value.kind == "bad_answer"
