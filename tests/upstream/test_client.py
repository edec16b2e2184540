"""The client on real loopback sockets: what a cut-off call leaves behind, its deadlines and its caps."""

from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio

from appliance.config.settings import Settings
from appliance.protocol.errors import UpstreamFailed, UpstreamTimeout
from appliance.upstream.client import UpstreamCall, open_upstream
from tests.fakes.http import open_server

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"


def call(url, **changes):
    return UpstreamCall(
        **{"backend_class": "gpu", "method": "POST", "url": url, "first_byte_s": 10, "idle_s": 10, **changes}
    )


class Peer:
    """One backend connection at a time: says `answer` to what it reads, then waits for the client to leave."""

    def __init__(self, answer=b"", *, reads=True):
        self.answer = answer
        self.reads = reads
        self.heard = bytearray()
        self.got_something = trio.Event()
        self.left = trio.Event()
        self.connections = 0

    async def serve(self, stream):
        self.connections += 1
        try:
            if not self.reads:
                self.got_something.set()
                await trio.sleep_forever()
            async for piece in stream:
                self.heard += piece
                if self.answer and b"\r\n\r\n" in self.heard and not self.got_something.is_set():
                    await stream.send_all(self.answer)
                self.got_something.set()
        except trio.BrokenResourceError:
            pass
        finally:
            self.left.set()


@asynccontextmanager
async def open_peer(peer, scheme="http"):
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, peer.serve, 0, host="127.0.0.1"))
        yield f"{scheme}://127.0.0.1:{listeners[0].socket.getsockname()[1]}/x"
        nursery.cancel_scope.cancel()


def pool_of(upstream):
    """The client's own word for what is open: its repr is a status line."""
    return repr(upstream)


CLEAN = "<Pool in_use=0 kept=0>"
PHASES = {
    "in the TLS handshake": ("https", Peer, {}),
    "waiting for the head": ("http", Peer, {}),
    "in the middle of the head": ("http", Peer, {"answer": HEAD[:20]}),
    "in the middle of the body": ("http", Peer, {"answer": HEAD + b"ab"}),
}


@pytest.mark.parametrize("phase", PHASES)
async def test_cancelled_call_closes_its_connection_and_leaves_nothing(nursery, loopback_clock, phase):
    scheme, make, options = PHASES[phase]
    peer = make(**options)
    async with open_upstream(Settings()) as upstream, open_peer(peer, scheme) as url:
        with trio.CancelScope() as scope:
            nursery.start_soon(_cancel_after, peer.got_something, scope)
            await upstream.exchange(call(url))
        assert scope.cancelled_caught
        with trio.fail_after(0.05):
            await peer.left.wait()
        assert CLEAN in pool_of(upstream)
        async with open_peer(Peer(OK)) as good:
            assert (await upstream.exchange(call(good))).body == b"hi"


async def test_call_cancelled_while_it_sends_closes_its_connection(nursery, loopback_clock):
    peer = Peer(reads=False)
    async with open_upstream(Settings()) as upstream, open_peer(peer) as url:
        with trio.CancelScope() as scope:
            nursery.start_soon(_cancel_after, peer.got_something, scope)
            await upstream.exchange(call(url, body=b"x" * 50_000_000))
        assert scope.cancelled_caught
        assert CLEAN in pool_of(upstream)


async def _cancel_after(event, scope):
    await event.wait()
    await trio.sleep(0.1)
    scope.cancel()


async def test_backend_that_does_not_read_is_a_timeout(loopback_clock):
    async with open_upstream(Settings()) as upstream, open_peer(Peer(reads=False)) as url:
        with pytest.raises(UpstreamTimeout, match="first byte"):
            await upstream.exchange(call(url, body=b"x" * 50_000_000))


async def test_silent_handshake_is_a_connect_timeout_and_was_never_sent(loopback_clock):
    sent = []
    async with open_upstream(Settings(backend_connect_timeout_sec=2)) as upstream, open_peer(Peer(), "https") as url:
        started = trio.current_time()
        with pytest.raises(UpstreamTimeout, match=r"took no connection within 2 s \(connect deadline\)"):
            await upstream.exchange(call(url, on_connected=lambda: sent.append(1)))
        assert 1.9 < trio.current_time() - started < 2.5
    assert not sent


@pytest.mark.parametrize(
    ("answer", "deadline"), [(b"", "first byte"), (HEAD[:20], "first byte"), (HEAD, "idle"), (HEAD + b"ab", "idle")]
)
async def test_each_silence_has_its_own_deadline(loopback_clock, answer, deadline):
    async with open_upstream(Settings()) as upstream, open_peer(Peer(answer)) as url:
        with pytest.raises(UpstreamTimeout, match=f"{deadline} deadline"):
            await upstream.exchange(call(url, first_byte_s=7, idle_s=3))


async def test_total_deadline_is_named_when_it_comes_first(loopback_clock):
    async with open_upstream(Settings()) as upstream, open_peer(Peer()) as url:
        with pytest.raises(UpstreamTimeout, match=r"within 3 s \(total deadline\)"):
            await upstream.exchange(call(url, total_s=3))


async def test_refused_connection_says_that_nothing_was_sent(loopback_clock):
    async with open_upstream(Settings()) as upstream:
        with pytest.raises(UpstreamFailed, match="gpu cannot be reached") as caught:
            await upstream.exchange(call("http://127.0.0.1:1/x", on_connected=pytest.fail))
    assert (caught.value.status, caught.value.code) == (502, "upstream_error")


@pytest.mark.parametrize(
    "url", ["ftp://127.0.0.1/x", "http:///x", "http://[::1/x", "http://a b/x", "http://h:99999/", ""]
)
async def test_address_that_is_none_is_502(loopback_clock, url):
    async with open_upstream(Settings()) as upstream:
        with pytest.raises(UpstreamFailed) as caught:
            await upstream.exchange(call(url))
    assert caught.value.status == 502


async def test_every_exchange_has_its_own_connection_and_asks_for_no_other(loopback_clock):
    async with open_upstream(Settings()) as upstream:

        async def handle(request):
            assert request.header("connection") == "close"
            assert request.header("accept-encoding") == "identity"
            assert request.header("user-agent") == "appliance"
            await request.respond(200, b"{}")

        async with open_server(handle) as server:
            for _ in range(3):
                await upstream.exchange(call(server.base_url))
            assert server.statistics.connections_ever == 3
            await server.statistics.until_no_connections()
        assert CLEAN in pool_of(upstream)


async def test_cookies_are_neither_kept_nor_sent(loopback_clock):
    async with open_upstream(Settings()) as upstream:
        seen = []

        async def handle(request):
            seen.append(request.header("cookie"))
            await request.respond(200, b"{}", {"Set-Cookie": "a=b"})

        async with open_server(handle) as server:
            await upstream.exchange(call(server.base_url))
            await upstream.exchange(call(server.base_url))
    assert seen == [None, None]


async def test_proxy_of_the_environment_is_ignored(loopback_clock, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    async with open_upstream(Settings()) as upstream, open_peer(Peer(OK)) as url:
        assert (await upstream.exchange(call(url))).status == 200


async def test_answer_that_was_sent_before_the_request_was_read_is_heard(loopback_clock):
    async def handle(stream):
        await stream.receive_some(1)
        await stream.send_all(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await stream.send_eof()
        async for _ in stream:
            pass

    async with open_upstream(Settings()) as upstream, trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, handle, 0, host="127.0.0.1"))
        port = listeners[0].socket.getsockname()[1]
        assert (await upstream.exchange(call(f"http://127.0.0.1:{port}/", body=b"x" * 10_000_000))).status == 413
        nursery.cancel_scope.cancel()


async def test_latency_of_every_answer_is_observed(loopback_clock):
    seen = []
    async with open_upstream(Settings(), observe=lambda *what: seen.append(what)) as upstream:

        async def handle(request):
            await trio.sleep(3)
            await request.respond(500, b"")

        async with open_server(handle) as server:
            await upstream.exchange(call(server.base_url))
    assert seen[0][0] == "gpu"
    assert 3 <= seen[0][1] < 3.5


OK_LINE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n"
UNACCEPTABLE = {
    "too many headers": OK_LINE + b"".join(b"X-%d: a\r\n" % n for n in range(150)) + b"\r\nhi",
    "too many headers.": OK_LINE + b"X: " + b"a" * 40_000 + b"\r\n\r\nhi",
    "compressed": OK_LINE + b"Content-Encoding: gzip\r\n\r\nhi",
    "302, a redirect": b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 2\r\n\r\nhi",
    "more than 100 bytes": b"HTTP/1.1 200 OK\r\nContent-Length: 101\r\n\r\n" + b"a" * 101,
    "more than 100 bytes.": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n65\r\n"
    + b"a" * 101
    + b"\r\n0\r\n\r\n",
    "not valid HTTP": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nhi",
}


@pytest.mark.parametrize("words", UNACCEPTABLE)
async def test_answer_that_is_whole_but_unacceptable_is_refused_in_plain_words(loopback_clock, words):
    peer = Peer(UNACCEPTABLE[words])
    async with open_upstream(Settings()) as upstream, open_peer(peer) as url:
        with pytest.raises(UpstreamFailed, match=words.rstrip(".")):
            await upstream.exchange(call(url, max_body_bytes=100))
        with trio.fail_after(0.05):
            await peer.left.wait()
        assert CLEAN in pool_of(upstream)


@pytest.mark.parametrize("answer", [HEAD[:-2] + b"Content-Encoding: identity\r\n\r\n" + b"a" * 9, OK])
async def test_answer_just_within_the_caps_is_served(loopback_clock, answer):
    async with open_upstream(Settings()) as upstream, open_peer(Peer(answer)) as url:
        assert (await upstream.exchange(call(url, max_body_bytes=9))).status == 200


async def test_answer_that_comes_slowly_but_steadily_is_served(loopback_clock):
    async def handle(request):
        await request.send_raw(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n")
        for _ in range(10):
            await trio.sleep(1)
            await request.send_raw(b"a")

    async with open_upstream(Settings()) as upstream, open_server(handle) as server:
        assert (await upstream.exchange(call(server.base_url, idle_s=3))).body == b"a" * 10
