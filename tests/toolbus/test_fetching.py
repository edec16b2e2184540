"""http_fetch and http_fetch_local, over real loopback sockets: what they answer, what they send, what they never touch."""

import base64
import codecs
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import trio
import trio.testing
import trustme
from hypothesis import given
from hypothesis import strategies as st

from appliance.toolbus import fetching
from appliance.toolbus.base import Tool, ToolFailed
from appliance.toolbus.builtin import http_fetch, http_fetch_local
from appliance.toolbus.fetching import PARAMETERS, check_headers, decode_body
from tests.fakes.clock import loopback_clock
from tests.fakes.http import Request, Server, open_server
from tests.toolbus.environments import Names, fields, make_environment, open_files, refused

__all__ = ["loopback_clock"]

MAKERS = [http_fetch.make, http_fetch_local.make]
LOCAL = Names({"localhost": ["::1", "127.0.0.1"], "box.local": ["127.0.0.1"], "evil.local": ["169.254.169.254"]})


def fetcher(
    make: Callable[..., Tool] = http_fetch.make, *, own_ports: frozenset[int] = frozenset(), **settings: Any
) -> Tool:
    return make(make_environment(resolve=LOCAL, own_ports=own_ports, **settings))


def answering(
    status: int = 200, body: bytes = b"hello", content_type: str = "text/plain", **headers: str
) -> Callable[[Request], Awaitable[None]]:
    async def answer(request: Request) -> None:
        await request.respond(status, body, {"Content-Type": content_type, **headers})

    return answer


@asynccontextmanager
async def leaving_nothing(
    handler: Callable[[Request], Awaitable[None]], tls: ssl.SSLContext | None = None
) -> AsyncIterator[Server]:
    """A server; afterwards no connection is open on either side."""
    before = open_files()
    async with open_server(handler, ssl_context=tls) as server:
        yield server
        with trio.fail_after(5):
            await server.statistics.until_no_connections()
    assert open_files() == before


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_body_is_fetched_with_status_and_type(make: Callable[..., Tool], host: str) -> None:
    async with leaving_nothing(answering(404, "nö".encode(), "text/html; charset=utf-8")) as server:
        outcome = await fetcher(make).run({"url": f"http://{host}:{server.port}/a?b=c"})
    assert outcome.fields == {
        "status": 404,
        "content_type": "text/html; charset=utf-8",
        "truncated": False,
        "body_text": "nö",
    }
    assert outcome.io_bytes > 100


async def test_request_carries_what_was_asked_and_nothing_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("NETRC", "/dev/null")
    seen: list[Request] = []

    async def note(request: Request) -> None:
        seen.append(request)
        await request.respond(200, b"")

    async with leaving_nothing(note) as server:
        tool = fetcher(gateway_bearer_token="a-secret-0123456789")
        await tool.run(
            {"url": f"http://127.0.0.1:{server.port}/x?y=%20#z", "headers": {"X-A": " 1\t"}, "method": "OPTIONS"}
        )
    [request] = seen
    assert (request.method, request.target, request.body) == ("OPTIONS", "/x?y=%20", b"")
    assert dict(request.headers) == {
        "host": f"127.0.0.1:{server.port}", "accept": "*/*", "accept-encoding": "identity", "connection": "close",
        "user-agent": "appliance", "x-a": "1",
    }  # fmt: skip


async def test_redirect_is_the_answer_and_is_not_followed() -> None:
    async with (
        leaving_nothing(answering()) as inner,
        leaving_nothing(answering(302, b"", Location=f"{inner.base_url}/secret")) as server,
    ):
        answer = await fetcher().run({"url": server.base_url})
        assert (answer.fields["status"], answer.fields["location"]) == (302, f"{inner.base_url}/secret")
        assert inner.statistics.connections_ever == 0


@pytest.mark.parametrize("status", [200, 404])
async def test_location_is_shown_of_redirects_alone(status: int) -> None:
    async with leaving_nothing(answering(status, Location="/x")) as server:
        assert "location" not in await fields(fetcher(), {"url": server.base_url})


async def test_body_is_cut_at_the_cap() -> None:
    async with leaving_nothing(answering(body="ab☃".encode() * 100)) as server:
        answer = await fields(fetcher(tools_http_max_bytes=8), {"url": server.base_url})
    assert (answer["truncated"], answer["body_text"]) == (True, "ab☃ab"), "half a character is left out"


async def test_body_that_is_no_text_comes_in_base64() -> None:
    async with leaving_nothing(answering(body=b"\x89PNG\r\n", content_type="image/png")) as server:
        answer = await fields(fetcher(), {"url": server.base_url})
    assert base64.b64decode(answer["body_base64"]) == b"\x89PNG\r\n"
    assert "body_text" not in answer


async def test_head_is_answered_with_an_empty_text() -> None:
    async with leaving_nothing(answering(body=b"x" * 50)) as server:
        answer = await fields(fetcher(), {"url": server.base_url, "method": "HEAD"})
    assert (answer["status"], answer["body_text"], answer["truncated"]) == (200, "", False)


async def test_compressed_answer_is_refused_not_unpacked() -> None:
    async with leaving_nothing(answering(body=b"\x1f\x8b", **{"Content-Encoding": "gzip"})) as server:
        failure = await refused(fetcher(), {"url": server.base_url})
    assert (failure.kind, failure.message) == (
        "bad_answer",
        "The server compressed its answer, which it was asked not to do.",
    )


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("http://127.0.0.1:{own}/", "address_not_allowed"),
        ("http://localhost:{own}/", "address_not_allowed"),
        ("http://[::ffff:127.0.0.1]:{port}/", "host_not_allowed"),
        ("http://127.0.0.2:{port}/", "host_not_allowed"),
        ("http://2130706433:{port}/", "invalid_url"),
        ("http://u:p@127.0.0.1:{port}/", "invalid_url"),
        ("http://example.com/", "host_not_allowed"),
    ],
)
async def test_refused_url_reaches_no_server(make: Callable[..., Tool], url: str, kind: str) -> None:
    async with leaving_nothing(answering()) as server, leaving_nothing(answering()) as own:
        tool = fetcher(make, own_ports=frozenset({own.port}))
        assert (await refused(tool, {"url": url.format(port=server.port, own=own.port)})).kind == kind
        assert server.statistics.connections_ever == own.statistics.connections_ever == 0


@pytest.mark.parametrize("host", ["box.local", "evil.local"])
async def test_listed_name_that_leads_here_or_to_metadata_reaches_no_server(host: str) -> None:
    async with leaving_nothing(answering()) as server:
        tool = fetcher(tools_http_allowed_hosts=(host,))
        assert (await refused(tool, {"url": f"http://{host}:{server.port}/"})).kind == "address_not_allowed"
        assert server.statistics.connections_ever == 0


async def test_local_fetch_obeys_the_list_and_never_leaves() -> None:
    async with leaving_nothing(answering()) as server:
        tool = fetcher(http_fetch_local.make, tools_http_allowed_hosts=(f"127.0.0.1:{server.port}", "10.0.0.1"))
        await tool.run({"url": server.base_url})
        assert (await refused(tool, {"url": "http://127.0.0.1:1/"})).kind == "host_not_allowed"
        assert (await refused(tool, {"url": "http://10.0.0.1/"})).kind == "host_not_allowed"


async def test_nobody_there_is_said() -> None:
    async with open_server(answering()) as server:
        port = server.port
    assert (await refused(fetcher(), {"url": f"http://127.0.0.1:{port}/"})).kind == "unreachable"


DRIPS = {
    "nothing": b"",
    "half a head": b"HTTP/1.1 200 OK\r\nX",
    "half a body": b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhi",
}


@pytest.mark.parametrize("said", DRIPS)
async def test_slow_server_is_left_at_the_deadline(loopback_clock: trio.testing.MockClock, said: str) -> None:
    async def stall(request: Request) -> None:
        await request.send_raw(DRIPS[said])
        await request.hung_up()

    async with leaving_nothing(stall) as server:
        assert (await refused(fetcher(tools_http_timeout_sec=7), {"url": server.base_url})).kind == "timeout"
        assert trio.current_time() == pytest.approx(7)


async def test_deadline_holds_over_the_look_up_too(autojump_clock: trio.testing.MockClock) -> None:
    async def slow(_host: str, _port: int) -> list[str]:
        await trio.sleep(60)
        return ["127.0.0.1"]

    tool = http_fetch.make(make_environment(resolve=slow))
    assert (await refused(tool, {"url": "http://localhost/"})).kind == "timeout"
    assert trio.current_time() == pytest.approx(10)


@pytest.mark.parametrize("said", DRIPS)
async def test_caller_that_leaves_takes_the_connection_along(said: str) -> None:
    reached = trio.Event()

    async def stall(request: Request) -> None:
        await request.send_raw(DRIPS[said])
        reached.set()
        await request.hung_up()

    async with leaving_nothing(stall) as server:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fetcher().run, {"url": server.base_url})
            await reached.wait()
            nursery.cancel_scope.cancel()


@pytest.fixture
def authority(tmp_path: Path) -> tuple[trustme.CA, Path]:
    made = trustme.CA()
    made.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    return made, tmp_path / "ca.pem"


def _serving(authority: trustme.CA, name: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


async def test_https_checks_the_name_at_the_checked_address(authority: tuple[trustme.CA, Path]) -> None:
    made, bundle = authority
    tool = fetcher(backend_ca_bundle=bundle)
    async with open_server(answering(), ssl_context=_serving(made, "localhost")) as server:
        for _ in range(2):
            assert (await fields(tool, {"url": f"https://localhost:{server.port}/"}))["body_text"] == "hello"
        assert (await refused(tool, {"url": f"https://127.0.0.1:{server.port}/"})).kind == "tls_failed"


async def test_certificates_are_checked_even_where_backends_are_not(authority: tuple[trustme.CA, Path]) -> None:
    async with open_server(answering(), ssl_context=_serving(authority[0], "localhost")) as server:
        tool = fetcher(backend_verify_tls=False)
        assert (await refused(tool, {"url": f"https://localhost:{server.port}/"})).kind == "tls_failed"


async def test_client_certificate_of_backends_is_shown_to_nobody(
    authority: tuple[trustme.CA, Path], tmp_path: Path
) -> None:
    made, bundle = authority
    pair = tmp_path / "client.pem"
    made.issue_cert("gateway").private_key_and_cert_chain_pem.write_to_path(str(pair))
    context = _serving(made, "localhost")
    context.verify_mode = ssl.CERT_OPTIONAL
    made.configure_trust(context)
    shown: list[object] = []

    async def note(request: Request) -> None:
        stream: Any = request.stream
        shown.append(stream.getpeercert())
        await request.respond(200, b"")

    async with open_server(note, ssl_context=context) as server:
        tool = fetcher(backend_ca_bundle=bundle, backend_client_cert=str(pair))
        await tool.run({"url": f"https://localhost:{server.port}/"})
    assert len(shown) == 1
    assert not shown[0]


async def test_bundle_that_is_gone_is_said(tmp_path: Path) -> None:
    tool = fetcher(backend_ca_bundle=tmp_path / "gone.pem")
    failure = await refused(tool, {"url": "https://localhost:1/"})
    assert (failure.kind, "BACKEND_CA_BUNDLE" in failure.message) == ("tls_failed", True)


async def test_leaving_while_the_authorities_are_loaded_leaves_nothing() -> None:
    environment = make_environment(resolve=LOCAL, files=1)
    async with environment.files:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(http_fetch.make(environment).run, {"url": "https://localhost:1/"})
            await trio.testing.wait_all_tasks_blocked()
            assert environment.files.statistics().tasks_waiting == 1
            nursery.cancel_scope.cancel()
    assert environment.files.statistics().tasks_waiting == 0


REFUSED_HEADERS = [
    "Host", "HOST", "Connection", "Keep-Alive", "TE", "Trailer", "Transfer-Encoding", "transfer_encoding", "Upgrade", "Content-Length",
    "Content_Length", "Expect", "Accept-Encoding", "Proxy-Authorization", "Proxy-Connection", "Forwarded", "X-Forwarded-For",
    "X_Forwarded_For", "X-Real-IP", "Via", "HTTP2-Settings", "", "a b", "a:", "a\r\nb", "a\n", "\u00e9", "(a)", "a\0",
]  # fmt: skip


@pytest.mark.parametrize("name", REFUSED_HEADERS)
def test_header_of_the_connection_or_of_proxies_is_refused(name: str) -> None:
    with pytest.raises(ToolFailed) as caught:
        check_headers({"X-Ok": "1", name: "x"})
    assert caught.value.kind == "header_not_allowed"


@pytest.mark.parametrize("value", ["a\r\nX: b", "a\n", "\r", "\0", "é", "\x7f", "\x1b"])
def test_value_that_is_no_printable_ascii_is_refused(value: str) -> None:
    with pytest.raises(ToolFailed):
        check_headers({"X": value})


def test_header_may_not_come_twice() -> None:
    with pytest.raises(ToolFailed, match="twice"):
        check_headers({"X-A": "1", "x-a": "2"})


@pytest.mark.parametrize(
    "name", ["Accept", "Authorization", "X-Api-Key", "Cookie", "If-None-Match", "Range", "User-Agent"]
)
def test_other_headers_pass(name: str) -> None:
    assert check_headers({name: "x y\tz "}) == {name: "x y\tz"}


ARGUMENTS = [
    ({"url": "http://h/"}, True),
    ({"url": "http://h/", "method": "HEAD", "headers": {"A": "b"}}, True),
    ({}, False),
    ({"url": ""}, False),
    ({"url": 1}, False),
    ({"url": "h" * 5000}, False),
    ({"url": "http://h/", "method": "POST"}, False),
    ({"url": "http://h/", "method": "get"}, False),
    ({"url": "http://h/", "method": "CONNECT"}, False),
    ({"url": "http://h/", "body": "x"}, False),
    ({"url": "http://h/", "headers": {"a b": "c"}}, False),
    ({"url": "http://h/", "headers": {"A": 1}}, False),
    ({"url": "http://h/", "headers": {"A": "x" * 3000}}, False),
    ({"url": "http://h/", "headers": {f"A{number}": "" for number in range(33)}}, False),
    ({"url": "http://h/", "headers": ["A: b"]}, False),
]


@pytest.mark.parametrize(("arguments", "valid"), ARGUMENTS)
def test_schema_lets_pass_what_can_be_asked(arguments: dict[str, object], valid: bool) -> None:
    assert jsonschema.Draft202012Validator(PARAMETERS).is_valid(arguments) is valid


TEXTS = [
    (b"caf\xe9", "text/plain; charset=ISO-8859-1", "café"),
    (b"caf\xe9", 'text/plain; a=b; Charset="latin1"', "café"),
    (b"\x80", "text/html;charset=windows-1252", "€"),
    (b"\x93\xfa\x96{", "text/html; charset=Shift_JIS", "日本"),
    ("日".encode("utf-16"), "text/plain; charset=utf-16", "日"),
    ("日".encode(), "text/plain; charset=iso-2022-jp", "日"),  # declared wrongly: UTF-8 decodes
    (b"abc", "text/plain; charset=no-such", "abc"),
    (b"eJwDAAAAAAE=", "text/plain; charset=zlib", "eJwDAAAAAAE="),
    (b"abc", "text/plain; charset=../../x", "abc"),
    (b"abc", "", "abc"),
    (b"", "image/png", ""),
    (b"\xff", "text/plain; charset=utf-8", None),
    (b"\xff", "text/plain; charset=us-ascii", None),
    (b"\xff", "text/plain; charset=punycode", None),
    (b"\xe2\x98", "text/plain", None),
]


@pytest.mark.parametrize(("body", "content_type", "text"), TEXTS)
def test_text_is_what_the_declared_charset_or_utf8_makes_of_it(
    body: bytes, content_type: str, text: str | None
) -> None:
    assert decode_body(body, content_type, truncated=False) == text


@given(st.text(), st.sampled_from(["utf-8", "utf-16", "gb18030", "utf-16le"]), st.data())
def test_cut_text_is_a_beginning_of_the_whole(text: str, charset: str, data: st.DataObject) -> None:
    whole = text.encode(charset)
    cut = data.draw(st.integers(0, len(whole)))
    found = decode_body(whole[:cut], f"text/plain; charset={charset}", truncated=True)
    assert found is not None
    assert text.startswith(found)
    assert decode_body(whole, f"text/plain; charset={charset}", truncated=False) == text


def test_every_charset_is_one_that_python_has() -> None:
    for name in fetching._CHARSETS:
        assert codecs.lookup(name)._is_text_encoding  # type: ignore[attr-defined] # what bytes.decode asks
