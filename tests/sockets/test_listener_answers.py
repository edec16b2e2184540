"""Answers over real sockets: keep-alive, pipelining, 100-continue, bodies that are none, injection, TLS, quart."""

import ssl
from contextlib import suppress
from typing import Any

import httpx
import pytest
import trio
import trustme
from quart import request
from quart_trio import QuartTrio

from appliance.server.listener_limits import ListenerLimits
from tests.sockets.listening import answer, echo, listening, read_body, read_to_end, read_until

pytestmark = pytest.mark.usefixtures("http1")

GET = b"GET /a HTTP/1.1\r\nHost: g\r\n\r\n"
LAST = b"GET /z HTTP/1.1\r\nHost: g\r\nConnection: close\r\n\r\n"


async def test_pipelined_requests_are_answered_in_order() -> None:
    async with listening(echo) as house:
        got = await house.exchange(b"".join(GET.replace(b"/a", b"/%d" % n) for n in range(20)) + LAST)
    assert got.count(b"HTTP/1.1 200") == 21
    places = [got.index(b"GET /%d " % n) for n in range(20)]
    assert places == sorted(places)


async def test_connection_closes_after_its_last_allowed_request() -> None:
    async with listening(echo, ListenerLimits(max_requests_per_connection=2)) as house:
        got = await house.exchange(GET * 5)
    assert got.count(b"HTTP/1.1 200") == 2
    assert got.lower().count(b"connection: close") == 1


async def test_http_1_0_request_is_answered_and_closed() -> None:
    async with listening(echo) as house:
        assert (await house.exchange(b"GET /old HTTP/1.0\r\n\r\n")).endswith(b"GET /old ")


async def test_client_that_asks_for_100_continue_gets_it_before_its_body() -> None:
    async with listening(echo) as house, await house.connect() as client:
        head = b"POST / HTTP/1.1\r\nHost: g\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n"
        await client.send_all(head)
        assert b"HTTP/1.1 100 " in await read_until(client, b"\r\n\r\n")
        await client.send_all(b"abc")
        await read_until(client, b"POST / abc")


@pytest.mark.parametrize(("method", "status"), [(b"HEAD", 200), (b"GET", 204), (b"GET", 304)])
async def test_answers_without_a_body_have_none(method: bytes, status: int) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await read_body(receive)
        await send(
            {"type": "http.response.start", "status": status if scope["path"] == "/none" else 200, "headers": []}
        )
        await send({"type": "http.response.body", "body": b"never", "more_body": False})

    async with listening(app) as house:
        got = await house.exchange(
            method + b" /none HTTP/1.1\r\nHost: g\r\n\r\n" + method.replace(b"GET", b"HEAD") + LAST[3:]
        )
    assert got.startswith(b"HTTP/1.1 %d " % status)
    assert got.count(b"HTTP/1.1 ") == 2
    assert b"never" not in got


@pytest.mark.parametrize(
    "field", [(b"x-a", b"b\r\nx-evil: c"), (b"x-a", b"b\nx-evil: c"), (b"x-a\r\nx-evil", b"c"), (b"x-a", b"\x00x-evil")]
)
async def test_header_injection_by_the_application_is_a_500(field: tuple[bytes, bytes]) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await read_body(receive)
        await answer(send, b"body", headers=[field])

    async with listening(app) as house:
        got = await house.exchange(GET)
    assert got.startswith(b"HTTP/1.1 500 ")
    assert b"x-evil" not in got
    assert got.count(b"HTTP/1.1 ") == 1
    assert len(house.crashes) == 1


@pytest.mark.parametrize(("body", "status"), [(b"too long", b"500"), (b"s", b"200")])
async def test_answer_that_belies_its_length_ends_the_connection(body: bytes, status: bytes) -> None:
    """Too long is found out before the head has left, and becomes a 500; too short only at its end, and is cut."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await read_body(receive)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
        await send({"type": "http.response.body", "body": body, "more_body": False})

    async with listening(app) as house:
        got = await house.exchange(GET + GET)
    assert got.count(b"HTTP/1.1 ") == 1
    assert got.startswith(b"HTTP/1.1 " + status)
    assert b"too long" not in got


async def test_answer_before_the_body_has_come_says_that_it_is_the_last() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await answer(send, b"no", 401)

    async with listening(app) as house, await house.connect() as client:
        await client.send_all(b"POST / HTTP/1.1\r\nHost: g\r\nContent-Length: 3\r\n\r\n")
        assert b"connection: close" in (await read_until(client, b"no")).lower()


async def test_answer_to_a_request_that_came_whole_keeps_the_connection() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await answer(send, b"no", 401)

    async with listening(app) as house:
        got = await house.exchange(b"POST / HTTP/1.1\r\nHost: g\r\nContent-Length: 3\r\n\r\nabc" + GET + LAST)
    assert got.count(b"HTTP/1.1 401") == 3


async def test_slow_but_steady_reader_gets_everything() -> None:
    size = 3_000_000

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await answer(send, b"x" * size)

    async with listening(app, ListenerLimits(write_stall_timeout_s=5)) as house, await house.connect() as client:
        await client.send_all(GET)
        got = 0
        with trio.fail_after(30):
            while got < size:
                got += len(await client.receive_some(65_536))
                await trio.sleep(0.005)


async def test_scope_tells_peer_scheme_and_raw_path() -> None:
    scopes: list[dict[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scopes.append(scope)
        await answer(send, b"")

    async with listening(app) as house:
        await house.exchange(LAST.replace(b"/z", b"/a%20b?c=d"))
    assert scopes[0]["client"][0] == "127.0.0.1"
    assert scopes[0]["server"] == ("127.0.0.1", house.port)
    assert (scopes[0]["scheme"], scopes[0]["raw_path"], scopes[0]["path"]) == ("http", b"/a%20b", "/a b")
    assert scopes[0]["query_string"] == b"c=d"


@pytest.fixture
def tls() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's and a client's context that trust each other."""
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return server, client


Contexts = tuple[ssl.SSLContext, ssl.SSLContext]


async def test_tls_is_served_with_http_1_1_only(tls: Contexts) -> None:
    server, client_context = tls
    client_context.set_alpn_protocols(["h2", "http/1.1"])
    async with listening(echo, ssl_context=server) as house:
        client = trio.SSLStream(await house.connect(), client_context, server_hostname="127.0.0.1")
        await client.send_all(GET + LAST)
        got = await read_to_end(client)  # ends with a close_notify: else this would raise
        assert client.selected_alpn_protocol() == "http/1.1"
        await client.aclose()
    assert got.count(b"HTTP/1.1 200 ") == 2
    assert house.crashes == []


async def test_tls_refusal_reaches_a_client_that_is_still_sending(tls: Contexts) -> None:
    server, client_context = tls
    async with listening(echo, ssl_context=server) as house:
        client = trio.SSLStream(await house.connect(), client_context, server_hostname="127.0.0.1")
        with trio.fail_after(5):
            await client.send_all(b"GET / HTTP/9.9\r\nHost: g\r\n\r\n" + b"x" * 300_000)
            assert (await client.receive_some()).startswith(b"HTTP/1.1 505 ")
        await trio.aclose_forcefully(client)


@pytest.mark.parametrize(
    "garbage", [b"GET / HTTP/1.1\r\nHost: g\r\n\r\n", b"\x16\x03\x01\x00\x05garbage", b"\x80" * 1000]
)
async def test_garbage_on_the_tls_port_is_closed_and_hurts_nobody(tls: Contexts, garbage: bytes) -> None:
    server, client_context = tls
    async with listening(echo, ssl_context=server) as house:
        with suppress(trio.BrokenResourceError):  # a reset will do as well
            await house.exchange(garbage)
        async with httpx.AsyncClient(verify=client_context) as client:
            assert (await client.get(f"https://127.0.0.1:{house.port}/a")).text == "GET /a "
    assert house.crashes == []


async def test_tls_handshake_has_a_deadline(tls: Contexts) -> None:
    async with listening(echo, ListenerLimits(tls_handshake_timeout_s=0.1), tls[0]) as house:
        assert await house.exchange(b"\x16\x03\x01\x02\x00") == b""


async def test_tls_connection_over_the_cap_is_closed_without_a_word(tls: Contexts) -> None:
    async with listening(echo, ListenerLimits(max_connections=0), tls[0]) as house:
        client = trio.SSLStream(await house.connect(), tls[1], server_hostname="127.0.0.1")
        with pytest.raises(trio.BrokenResourceError):
            await client.do_handshake()
        await trio.aclose_forcefully(client)
    assert house.refusals == []


async def test_tls_hang_up_is_heard(tls: Contexts) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await read_body(receive)
        running.set()
        assert (await receive())["type"] == "http.disconnect"
        heard.set()

    running, heard = trio.Event(), trio.Event()
    async with listening(app, ssl_context=tls[0]) as house:
        client = trio.SSLStream(await house.connect(), tls[1], server_hostname="127.0.0.1")
        with trio.fail_after(5):
            await client.send_all(GET)
            await running.wait()
            await client.aclose()
            await heard.wait()


async def test_tls_reader_that_takes_nothing_is_cut(tls: Contexts) -> None:
    async def large(scope: Any, receive: Any, send: Any) -> None:
        running.set()
        await answer(send, b"x" * 50_000_000)
        ended.set()

    running, ended = trio.Event(), trio.Event()
    async with listening(large, ListenerLimits(write_stall_timeout_s=0.2), tls[0]) as house:
        client = trio.SSLStream(await house.connect(), tls[1], server_hostname="127.0.0.1")
        with trio.fail_after(5):
            await client.send_all(GET)
            await running.wait()
            await ended.wait()
        await trio.aclose_forcefully(client)
    assert house.crashes == []


async def test_httpx_and_quart_talk_over_it() -> None:
    app = QuartTrio(__name__)

    @app.post("/json")
    async def double() -> dict[str, int]:
        data = await request.get_json()
        return {"twice": 2 * data["n"]}

    async with listening(app) as house, httpx.AsyncClient(base_url=f"http://127.0.0.1:{house.port}") as client:
        for n in range(5):
            assert (await client.post("/json", json={"n": n})).json() == {"twice": 2 * n}
        assert (await client.get("/nowhere")).status_code == 404
    assert house.crashes == []


async def test_quart_handler_is_cancelled_when_its_client_hangs_up() -> None:
    app = QuartTrio(__name__)
    cancelled = trio.Event()
    running = trio.Event()

    @app.get("/")
    async def wait() -> str:
        running.set()
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()
        return ""

    async with listening(app) as house:
        client = await house.connect()
        await client.send_all(GET.replace(b"/a", b"/"))
        with trio.fail_after(5):
            await running.wait()
            await client.aclose()
            await cancelled.wait()
    assert house.crashes == []
