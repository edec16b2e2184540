"""The pool on real loopback sockets: which connections serve again, which are closed, and which calls are made twice."""

from functools import partial

import pytest
import trio

from appliance.config.settings import Settings
from appliance.protocol.errors import UpstreamFailed, UpstreamTimeout
from appliance.upstream.client import UpstreamCall, open_upstream
from appliance.upstream.pool import KEPT_S, MAX_KEPT
from appliance.upstream.stream import UNHEARD_S
from tests.fakes.http import open_server

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"


def call(url, **changes):
    given = {"backend_class": "gpu", "method": "POST", "url": url, "first_byte_s": 10, "idle_s": 10, "keep_alive": True}
    return UpstreamCall(**{**given, **changes})


class Raw:
    """A backend that does with each request of each connection what `script` says: bytes, seconds, or its end."""

    def __init__(self, *scripts):
        self.scripts = list(scripts)
        self.connections = 0
        self.requests = 0
        self.left = 0

    async def serve(self, stream):
        self.connections += 1
        try:
            for step in self.scripts.pop(0) if self.scripts else ():
                if step == "request":
                    if not await stream.receive_some():
                        return
                    self.requests += 1
                elif isinstance(step, bytes):
                    await stream.send_all(step)
                else:
                    await trio.sleep(step)
        except trio.BrokenResourceError:
            return
        finally:
            self.left += 1


@pytest.fixture
async def serving(nursery):
    async def serve(backend):
        listeners = await nursery.start(partial(trio.serve_tcp, backend.serve, 0, host="127.0.0.1"))
        return f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}/x"

    yield serve
    nursery.cancel_scope.cancel()


async def respond(request):
    await request.respond(200, b"{}")


async def test_calls_one_after_the_other_share_a_connection(loopback_clock):
    async with open_upstream(Settings()) as upstream, open_server(respond) as server:
        for _ in range(5):
            assert (await upstream.exchange(call(server.base_url))).status == 200
            async with upstream.open_stream(call(server.base_url)) as stream:
                assert await stream.read_all(100) == b"{}"
        assert server.statistics.connections_ever == 1
        assert repr(upstream) == "<UpstreamClient <Pool in_use=0 kept=1>>"


async def test_calls_at_the_same_time_do_not(loopback_clock):
    async def slowly(request):
        await trio.sleep(0.1)
        await request.respond(200, b"{}")

    async with open_upstream(Settings()) as upstream, open_server(slowly) as server:
        async with trio.open_nursery() as asking:
            for _ in range(4):
                asking.start_soon(upstream.exchange, call(server.base_url))
        assert server.statistics.connections_ever == 4
        assert repr(upstream) == "<UpstreamClient <Pool in_use=0 kept=4>>"


async def test_backends_do_not_share(loopback_clock):
    async with open_upstream(Settings()) as upstream, open_server(respond) as one, open_server(respond) as other:
        for server in (one, other, one, other):
            await upstream.exchange(call(server.base_url))
        assert (one.statistics.connections_ever, other.statistics.connections_ever) == (1, 1)


async def test_connection_that_nobody_wants_is_closed(loopback_clock):
    async with open_upstream(Settings()) as upstream, open_server(respond) as server:
        await upstream.exchange(call(server.base_url))
        await trio.sleep(KEPT_S + 0.5)
        await server.statistics.until_no_connections()
        assert "kept=0" in repr(upstream)


async def test_stream_that_was_left_alone_for_long_still_gives_its_connection_back_for_a_second(loopback_clock):
    async with open_upstream(Settings()) as upstream, open_server(respond) as server:
        async with upstream.open_stream(call(server.base_url)) as stream:
            await stream.read_all(100)
            await trio.sleep(100)  # whoever looks after connections has gone to rest
        assert "kept=1" in repr(upstream)
        await trio.sleep(KEPT_S + 0.5)
        assert "kept=0" in repr(upstream)


async def test_kept_connections_are_closed_with_the_client(loopback_clock):
    async with open_server(respond) as server:
        async with open_upstream(Settings()) as upstream:
            await upstream.exchange(call(server.base_url))
        await server.statistics.until_no_connections()


async def test_no_more_are_kept_than_allowed(loopback_clock, monkeypatch):
    monkeypatch.setattr("appliance.upstream.pool.MAX_KEPT", 2)
    assert MAX_KEPT > 2

    async def slowly(request):
        await trio.sleep(0.1)
        await request.respond(200, b"{}")

    async with open_upstream(Settings()) as upstream, open_server(slowly) as server:
        async with trio.open_nursery() as asking:
            for _ in range(5):
                asking.start_soon(upstream.exchange, call(server.base_url))
        assert "kept=2" in repr(upstream)


NOT_KEPT = {
    "says close": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi",
    "speaks 1.0": b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi",
    "sends more": OK + OK,
    "sends rubbish behind": OK + b"rubbish",
}


@pytest.mark.parametrize("how", NOT_KEPT)
async def test_connection_that_may_not_serve_again_is_closed(loopback_clock, serving, how):
    backend = Raw(("request", NOT_KEPT[how], 60))
    url = await serving(backend)
    async with open_upstream(Settings()) as upstream:
        assert (await upstream.exchange(call(url))).body == b"hi"
        assert repr(upstream) == "<UpstreamClient <Pool in_use=0 kept=0>>"


async def test_answer_that_was_not_read_to_its_end_closes_its_connection(loopback_clock, serving):
    backend = Raw(("request", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhi", "request"))
    async with open_upstream(Settings()) as upstream:
        async with upstream.open_stream(call(await serving(backend))) as stream:
            assert await stream.receive() == b"hi"
        assert repr(upstream) == "<UpstreamClient <Pool in_use=0 kept=0>>"
        with trio.fail_after(1):
            while not backend.left:  # noqa: ASYNC110 - it sees the end when it reads
                await trio.sleep(0.001)


async def test_kept_connection_that_has_closed_is_seen_before_it_is_used(loopback_clock, serving):
    backend = Raw(("request", OK), ("request", OK))
    url = await serving(backend)
    told = []
    async with open_upstream(Settings()) as upstream:
        for _ in range(2):
            await upstream.exchange(call(url, on_connected=lambda: told.append(1)))
            await trio.sleep(0.05)
    assert (backend.connections, backend.requests, len(told)) == (2, 2, 2)


async def test_what_came_unasked_on_a_kept_connection_is_nobodys_answer(loopback_clock, serving):
    stray = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nstray"
    backend = Raw(("request", OK, 0.05, stray, "request"), ("request", OK))
    url = await serving(backend)
    async with open_upstream(Settings()) as upstream:
        await upstream.exchange(call(url))
        await trio.sleep(0.2)
        assert (await upstream.exchange(call(url))).body == b"hi"
    assert backend.connections == 2


@pytest.mark.parametrize("method", ["POST", "GET"])
async def test_call_on_a_kept_connection_that_ends_at_once_is_made_once_more(loopback_clock, serving, method):
    backend = Raw(("request", OK, "request"), ("request", OK))
    url = await serving(backend)
    told = []
    async with open_upstream(Settings()) as upstream:
        for _ in range(2):
            answer = await upstream.exchange(call(url, method=method, on_connected=lambda: told.append(1)))
            assert answer.body == b"hi"
    assert (backend.connections, backend.requests, len(told)) == (2, 3, 2)


@pytest.mark.parametrize(
    "end", [("request", UNHEARD_S + 0.1), ("request", b"HTTP/1.1 200"), ("request", b"HTTP/1.1 200 OK\r\n\r\nha")]
)
async def test_call_that_was_worked_on_is_not_made_again(loopback_clock, serving, end):
    backend = Raw(("request", OK, *end), ("request", OK))
    url = await serving(backend)
    async with open_upstream(Settings()) as upstream:
        await upstream.exchange(call(url))
        try:
            answer = await upstream.exchange(call(url))
        except UpstreamFailed:
            pass
        else:
            assert answer.body == b"ha"
    assert (backend.connections, backend.requests) == (1, 2)


async def test_call_on_a_new_connection_is_never_made_again(loopback_clock, serving):
    backend = Raw(("request",), ("request", OK))
    async with open_upstream(Settings()) as upstream:
        with pytest.raises(UpstreamFailed, match="closed the connection"):
            await upstream.exchange(call(await serving(backend)))
    assert backend.requests == 1


async def test_second_attempt_that_fails_too_is_a_failure(loopback_clock, serving):
    backend = Raw(("request", OK, "request"), ("request",), ("request", OK))
    url = await serving(backend)
    async with open_upstream(Settings()) as upstream:
        await upstream.exchange(call(url))
        with pytest.raises(UpstreamFailed):
            await upstream.exchange(call(url))
        assert "in_use=0" in repr(upstream)
    assert backend.requests == 3


async def test_silence_on_a_kept_connection_is_a_timeout(loopback_clock, serving):
    backend = Raw(("request", OK, "request", 60))
    url = await serving(backend)
    async with open_upstream(Settings()) as upstream:
        await upstream.exchange(call(url))
        started = trio.current_time()
        with pytest.raises(UpstreamTimeout, match="first byte"):
            await upstream.exchange(call(url, first_byte_s=3))
        assert 3 <= trio.current_time() - started < 3.6
        assert repr(upstream) == "<UpstreamClient <Pool in_use=0 kept=0>>"


async def test_failure_of_whoever_uses_the_client_comes_out_as_it_is():
    with pytest.raises(KeyError):
        async with open_upstream(Settings()):
            raise KeyError
