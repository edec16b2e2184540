"""Refusals from outside: every doubtful request gets one answer and a closed connection, and nothing behind it runs."""

from typing import Any

import pytest

from tests.sockets.listening import answer, echo, listening, read_body, read_to_end
from tests.sockets.test_listener_strict import REFUSED

pytestmark = pytest.mark.usefixtures("http1")

SECOND = b"GET /smuggled HTTP/1.1\r\nHost: g\r\n\r\n"


class Recorder:
    """Answers everything and remembers the paths it saw."""

    def __init__(self) -> None:
        self.paths: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.paths.append(scope["path"])
        await read_body(receive)
        await answer(send, b"ok")


@pytest.mark.parametrize(("raw", "status"), REFUSED, ids=lambda value: repr(value)[:70])
async def test_doubtful_request_gets_one_answer_and_a_closed_connection(raw: bytes, status: int) -> None:
    app = Recorder()
    async with listening(app) as house:
        got = await house.exchange(raw + b"3\r\nabc\r\n0\r\n\r\n" + SECOND)
    assert got.startswith(b"HTTP/1.1 %d " % status)
    assert got.count(b"HTTP/1.1 ") == 1
    assert app.paths == []
    assert [refusal.status for refusal in house.refusals] == [status]
    assert house.crashes == []


@pytest.mark.parametrize(("raw", "status"), REFUSED, ids=lambda value: repr(value)[:70])
async def test_second_request_on_a_connection_is_checked_like_the_first(raw: bytes, status: int) -> None:
    app = Recorder()
    async with listening(app) as house:
        got = await house.exchange(b"POST /first HTTP/1.1\r\nHost: g\r\nContent-Length: 2\r\n\r\nab" + raw + SECOND)
    assert got.startswith(b"HTTP/1.1 200 ")
    assert got.count(b"HTTP/1.1 ") == 2
    assert b"HTTP/1.1 %d " % status in got
    assert app.paths == ["/first"]


BAD_CHUNKS = [
    b"x\r\nabc\r\n0\r\n\r\n",
    b"+3\r\nabc\r\n0\r\n\r\n",
    b"0x3\r\nabc\r\n0\r\n\r\n",
    b"-3\r\nabc\r\n0\r\n\r\n",
    b"\r\nabc\r\n0\r\n\r\n",
    b"3\r\nabcd\r\n0\r\n\r\n",
    b"3\r\nabc0\r\n\r\n",
    b"3\nabc\r\n0\r\n\r\n",
    b"3\r\nabc\n0\r\n\r\n",
    b"3\r\nabc\r\n0\r\n\n",
    b"3\r\nabc\r\n0\n\r\n",
    b"3\r\nabc\r\n0\r\nX: y\r\n\r\n",
    b"3\r\nabc\r\n0\r\nX: y\n\r\n",
    b"3\r\nabc\r\n0\r\n X\r\n\r\n",
    b"f" * 21 + b"\r\nabc\r\n0\r\n\r\n",
    b"3;a\n\r\nabc\r\n0\r\n\r\n",
]


@pytest.mark.parametrize("chunks", BAD_CHUNKS)
async def test_bad_chunks_are_refused_and_nothing_behind_them_runs(chunks: bytes) -> None:
    app = Recorder()
    async with listening(app) as house:
        head = b"POST /first HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\n\r\n"
        got = await house.exchange(head + chunks + SECOND)
    assert got.startswith(b"HTTP/1.1 400 ")
    assert got.count(b"HTTP/1.1 ") == 1
    assert "/smuggled" not in app.paths
    assert house.crashes == []


async def test_length_beside_chunked_does_not_smuggle_a_request() -> None:
    app = Recorder()
    async with listening(app) as house:
        head = b"POST /first HTTP/1.1\r\nHost: g\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n"
        got = await house.exchange(head + b"0\r\n\r\n" + SECOND)
    assert got.count(b"HTTP/1.1 ") == 1
    assert app.paths == []


async def test_good_chunks_with_an_extension_are_served() -> None:
    async with listening(echo) as house:
        head = b"POST / HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        got = await house.exchange(head + b"3;a=b\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\n")
    assert got.endswith(b"POST / abc0123456789")


async def test_refusal_reaches_a_client_that_is_still_sending() -> None:
    async with listening(echo) as house:
        got = await house.exchange(b"POST / HTTP/2.0\r\nHost: g\r\n\r\n" + b"x" * 3_000_000)
    assert got.startswith(b"HTTP/1.1 505 ")


async def test_refusal_reaches_a_client_that_shut_down_its_side_after_an_upload_nobody_read() -> None:
    async with listening(echo) as house:
        for _ in range(5):
            async with await house.connect() as client:
                await client.send_all(b"POST / HTTP/2.0\r\nHost: g\r\n\r\n" + b"x" * 300_000)
                await client.send_eof()
                assert (await read_to_end(client)).startswith(b"HTTP/1.1 505 ")


async def test_refusal_names_the_peer() -> None:
    async with listening(echo) as house:
        await house.exchange(b"\x16\x03\x01")
    assert [(refusal.code, refusal.peer) for refusal in house.refusals] == [("tls_on_plain_port", "127.0.0.1")]
