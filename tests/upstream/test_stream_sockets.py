"""Streams on real loopback sockets: connecting, TLS, sending, death in each phase, and what a backend notices."""

import socket
import ssl
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio
import trustme

from appliance.config.settings import Settings
from appliance.protocol.errors import UpstreamFailed, UpstreamTimeout
from appliance.upstream.client import UpstreamCall, open_upstream
from tests.fakes.http import open_server
from tests.fakes.openai_chat import DEATHS, EVENTS_HEAD, WORD, chunked, open_fake_openai_chat, raw, reset_after


def call(url, **changes):
    return UpstreamCall(
        **{"backend_class": "gpu", "method": "POST", "url": url, "first_byte_s": 10, "idle_s": 10, **changes}
    )


def chat(base_url, **changes):
    return call(f"{base_url}/v1/chat/completions", body=b'{"stream":true}', **changes)


async def everything(upstream, request):
    async with upstream.open_stream(request) as stream:
        pieces = []
        while piece := await stream.receive():
            pieces.append(piece)
        return b"".join(pieces)


async def test_whole_stream_comes_through(loopback_clock):
    async with open_upstream(Settings()) as upstream, open_fake_openai_chat() as fake:
        body = await everything(upstream, chat(fake.base_url))
        assert body.count(b"data: ") == 5
        assert body.endswith(b"data: [DONE]\n\n")
        await fake.statistics.until_no_connections()


async def test_a_call_that_asks_for_it_has_a_connection_of_its_own(loopback_clock):
    async with open_upstream(Settings()) as upstream, open_fake_openai_chat() as fake:
        for _ in range(3):
            await everything(upstream, chat(fake.base_url))
        assert fake.statistics.connections_ever == 3
        assert {request.header("connection") for request in fake.requests} == {"close"}


async def test_name_is_looked_up():  # in a thread, which a clock that jumps would not wait for
    async with open_upstream(Settings()) as upstream, open_fake_openai_chat() as fake:
        url = fake.base_url.replace("127.0.0.1", "localhost")
        assert await everything(upstream, chat(url))
        assert fake.requests[0].header("host") == f"localhost:{fake.server.port}"


async def test_name_that_is_none_is_502(loopback_clock):
    async with open_upstream(Settings()) as upstream:
        with pytest.raises(UpstreamFailed, match="gpu has an address that is not a URL"):
            await everything(upstream, call("http://a..b/"))


async def test_refused_connection_says_that_nothing_was_sent(loopback_clock):
    async with open_upstream(Settings()) as upstream:
        with pytest.raises(UpstreamFailed, match="gpu cannot be reached") as caught:
            await everything(upstream, call("http://127.0.0.1:1/x", on_connected=pytest.fail))
    assert (caught.value.status, caught.value.code) == (502, "upstream_error")


@pytest.mark.parametrize(
    "url", ["ftp://127.0.0.1/x", "http:///x", "http://[::1/x", "http://a b/x", "http://h:99999/", ""]
)
async def test_address_that_is_none_is_502(loopback_clock, url):
    async with open_upstream(Settings()) as upstream:
        with pytest.raises(UpstreamFailed, match="gpu has an address"):
            await everything(upstream, call(url))


@pytest.mark.parametrize("phase", DEATHS)
@pytest.mark.parametrize("by_reset", [False, True], ids=["closed", "reset"])
async def test_backend_that_dies_in_any_phase_is_a_failure(loopback_clock, phase, by_reset):
    said = DEATHS[phase]
    async with open_upstream(Settings()) as upstream:
        async with open_fake_openai_chat(script=(reset_after if by_reset else raw)(said)) as fake:
            got = b""
            with pytest.raises(UpstreamFailed, match="gpu closed the connection before its answer was complete"):
                async with upstream.open_stream(chat(fake.base_url)) as stream:
                    while piece := await stream.receive():
                        got += piece
            assert got.count(WORD) == (said.count(WORD) and 1)
            await fake.statistics.until_no_connections()


async def test_listener_that_accepts_nobody_is_a_connect_or_first_byte_timeout(loopback_clock):
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}/"
        with socket.create_connection(deaf.getsockname()):  # the backlog is full
            async with open_upstream(Settings(backend_connect_timeout_sec=2)) as upstream:
                with pytest.raises(UpstreamTimeout, match="gpu took no connection within 2 s"):
                    await everything(upstream, call(url))


@asynccontextmanager
async def open_peer(serve):
    """A bare TCP peer; `serve` gets each connection."""
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def test_silent_handshake_is_a_connect_timeout_and_closes_the_connection(loopback_clock):
    left = trio.Event()

    async def silent(stream):
        async for _ in stream:
            pass
        left.set()

    async with open_upstream(Settings()) as upstream, open_peer(silent) as port:
        with pytest.raises(UpstreamTimeout, match=r"\(connect deadline\)"):
            await everything(upstream, call(f"https://127.0.0.1:{port}/", on_connected=pytest.fail))
        with trio.fail_after(0.05):
            await left.wait()


@pytest.mark.parametrize("rude", [False, True], ids=["reads on", "closes"])
async def test_answer_that_was_sent_before_the_request_was_read_is_heard(loopback_clock, rude):
    async def hasty(stream):
        await stream.receive_some(1)
        await stream.send_all(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
        await trio.sleep(1)
        if rude:
            return  # with so much unread, the kernel resets the connection
        await stream.send_eof()
        async for _ in stream:
            pass

    async with open_upstream(Settings()) as upstream, open_peer(hasty) as port:
        async with upstream.open_stream(call(f"http://127.0.0.1:{port}/", body=b"x" * 10_000_000)) as stream:
            assert stream.status == 413


async def test_large_request_arrives_whole(loopback_clock):
    async def count(request):
        await request.respond(200, str(len(request.body)).encode())

    async with open_upstream(Settings()) as upstream, open_server(count) as server:
        assert await everything(upstream, call(server.base_url, body=b"x" * 5_000_000)) == b"5000000"


async def test_backend_that_does_not_read_is_a_timeout(loopback_clock):
    async with open_upstream(Settings()) as upstream, open_peer(_never) as port:
        with pytest.raises(UpstreamTimeout, match="first byte"):
            await everything(upstream, call(f"http://127.0.0.1:{port}/", body=b"x" * 50_000_000))


async def _never(stream):
    await trio.sleep_forever()


@pytest.mark.parametrize(
    "said",
    [b"", EVENTS_HEAD[:20], EVENTS_HEAD, EVENTS_HEAD + chunked(WORD)],
    ids=["nothing", "a piece", "a head", "a word"],
)
async def test_backend_notices_a_cancelled_stream_at_once(nursery, loopback_clock, said):
    async with open_upstream(Settings()) as upstream, open_fake_openai_chat(script=raw(said, stay=True)) as fake:
        with trio.CancelScope() as scope:
            nursery.start_soon(_cancel_when_working, fake, scope)
            await everything(upstream, chat(fake.base_url))
        assert scope.cancelled_caught
        with trio.fail_after(0.05):
            await fake.statistics.until_no_connections()
        assert len(fake.statistics.hangups) == 1


async def _cancel_when_working(fake, scope):
    await fake.until_working()
    await trio.sleep(1)
    scope.cancel()


async def test_backend_that_keeps_sending_notices_that_its_reader_left(loopback_clock):
    async def flood(fake, request):
        await request.send_raw(EVENTS_HEAD)
        while True:
            await request.send_raw(chunked(WORD) * 1000)

    async with open_upstream(Settings()) as upstream, open_fake_openai_chat(script=flood) as fake:
        async with upstream.open_stream(chat(fake.base_url)) as stream:
            await stream.receive()
        with trio.fail_after(0.05):
            await fake.statistics.until_no_connections()


async def test_slow_reader_holds_the_backend_back(loopback_clock):
    sent = 0

    async def flood(fake, request):
        nonlocal sent
        await request.send_raw(EVENTS_HEAD)
        while True:
            await request.send_raw(chunked(b"x" * 65536))
            sent += 65536

    async with open_upstream(Settings()) as upstream, open_fake_openai_chat(script=flood) as fake:
        async with upstream.open_stream(chat(fake.base_url)) as stream:
            await stream.receive()
            await trio.sleep(100)
            held_at = sent
            await trio.sleep(1000)
            assert sent == held_at < 50_000_000


def _tls_server(authority, tmp_path, *names):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(context)
    bundle = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(bundle))
    return context, bundle


async def test_certificate_is_checked_against_the_bundle_and_the_host(tmp_path):  # a name is looked up in a thread
    context, bundle = _tls_server(trustme.CA(), tmp_path, "localhost")
    async with open_server(_answer_ok, ssl_context=context) as server:
        named = server.base_url.replace("127.0.0.1", "localhost")
        async with open_upstream(Settings(backend_ca_bundle=bundle)) as upstream:
            assert await everything(upstream, call(named)) == b"{}"
            with pytest.raises(UpstreamFailed, match="gpu failed the TLS handshake"):
                await everything(upstream, call(server.base_url))
        async with open_upstream(Settings()) as upstream:
            with pytest.raises(UpstreamFailed, match="gpu failed the TLS handshake"):
                await everything(upstream, call(named, on_connected=pytest.fail))
        async with open_upstream(Settings(backend_verify_tls=False)) as upstream:
            assert await everything(upstream, call(server.base_url)) == b"{}"
        await server.statistics.until_no_connections()


async def _answer_ok(request):
    await request.respond(200, b"{}")


async def test_interrupted_reads_under_tls_lose_nothing(loopback_clock, tmp_path):
    context, bundle = _tls_server(trustme.CA(), tmp_path, "127.0.0.1")

    async def drip(request):
        await request.send_raw(EVENTS_HEAD)
        for number in range(20):
            await trio.sleep(0.7)
            await request.send_raw(chunked(b"%d;" % number))
        await request.send_raw(b"0\r\n\r\n")

    got = b""
    async with open_server(drip, ssl_context=context) as server:
        async with open_upstream(Settings(backend_ca_bundle=bundle)) as upstream:
            async with upstream.open_stream(call(server.base_url)) as stream:
                piece = None
                while piece != b"":
                    piece = None
                    with trio.move_on_after(0.3):
                        piece = await stream.receive()
                    got += piece or b""
    assert got == b"".join(b"%d;" % number for number in range(20))


async def test_cookies_and_the_proxy_of_the_environment_are_ignored(loopback_clock, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    seen = []

    async def handle(request):
        seen.append(request.header("cookie"))
        await request.respond(200, b"{}", {"Set-Cookie": "a=b"})

    async with open_upstream(Settings()) as upstream, open_server(handle) as server:
        for _ in range(2):
            await everything(upstream, call(server.base_url))
    assert seen == [None, None]


async def test_many_streams_at_once_leave_no_connection_behind(nursery, loopback_clock):
    async with open_upstream(Settings()) as upstream, open_fake_openai_chat() as fake:
        fake.word_s = 1
        async with trio.open_nursery() as inner:
            for _ in range(50):
                inner.start_soon(everything, upstream, chat(fake.base_url))
        await fake.statistics.until_no_connections()
        assert (fake.statistics.connections_ever, fake.aborted) == (50, 0)
