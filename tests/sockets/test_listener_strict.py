"""Strict heads, as tables: what is refused, why, and that what passes is read by h11 just as we read it."""

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.server.strict import Fault, Head, check_head, parse_head, plain_head

HOST = b"Host: gateway\r\n"

ACCEPTED = [
    b"GET / HTTP/1.1\r\nHost: gateway:8800\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: [::1]:8800\r\n\r\n",
    b"GET /a?b=%20c&d HTTP/1.1\r\nHost:gateway\r\n\r\n",
    b"GET / HTTP/1.0\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: g\r\nContent-Length: 0\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: Chunked\r\nExpect: 100-Continue\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: g\r\nX-Empty:\r\nX-Name: J\xc3\xbcrgen\tK\r\nConnection: keep-alive, close\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost:  g \t\r\nX-A:\tb c\t \r\n\r\n",
    b"OPTIONS / HTTP/1.1\r\nHost: g\r\nAuthorization: Bearer x\r\n\r\n",
]

REFUSED = [
    # framing
    (b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\n", 400),
    *(
        (b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: " + length + b"\r\n\r\n", 400)
        for length in (b"+1", b"-1", b"1,1", b"1, 1", b"0x1", b"1 1", b"1_0", b"", b"01", b"1.0", b"\xb2", b"9" * 19)
    ),
    *(
        (b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: " + coding + b"\r\n\r\n", 400)
        for coding in (b"gzip", b"chunked, chunked", b"identity", b"gzip, chunked", b"xchunked", b'"chunked"', b"")
    ),
    (b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    # lines
    (b"GET / HTTP/1.1\r\n" + HOST + b"X-A: b\r\n folded\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\n" + HOST + b"X-A: b\r\n\tfolded\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\n Host: g\r\n\r\n", 400),
    (b"GET / HTTP/1.1\n" + HOST + b"\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: g\n\n", 400),
    (b"GET / HTTP/1.1\r\n" + HOST + b"X-A: b\nX-C: d\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\n" + HOST + b"X-A: b\rX-C: d\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\n" + HOST + b"X-A: b\x00\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\n" + HOST + b"X-A: b\x01\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\n" + HOST + b"X-A: b\x7f\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\n" + HOST + b"X-A : b\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\n" + HOST + b": b\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\n" + HOST + b"X-A\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\n" + HOST + b"X(A): b\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\n" + HOST + b"X-\xe9: b\r\n\r\n", 400),
    (b"\r\nGET / HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    # doubled, missing, odd
    (b"GET / HTTP/1.1\r\n" + HOST + b"Host: other\r\n\r\n", 400),
    (b"GET / HTTP/1.0\r\n" + HOST + b"Host: other\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: user@b\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: b/c\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\n" + HOST + b"Expect: 100-continue\r\nExpect: 100-continue\r\n\r\n", 400),
    (b"POST / HTTP/1.1\r\n" + HOST + b"Content-Type: a/b\r\nContent-Type: c/d\r\n\r\n", 400),
    # request line
    (b"GET  / HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    (b"GET / HTTP/1.1 \r\n" + HOST + b"\r\n", 400),
    (b"GET\t/ HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    (b" GET / HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    (b"get / HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    (b"GET /\r\n\r\n", 400),
    (b"GET / http/1.1\r\n" + HOST + b"\r\n", 400),
    (b"GET / HTTP/1.10\r\n" + HOST + b"\r\n", 400),
    (b"GET /\x01 HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    (b"GET /\x7f HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    (b"GET /\xc3\xbc HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    (b"GET a HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    (b"GET http://gateway/ HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    (b"OPTIONS * HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    (b"GET /a#b HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    (b"CONNECT gateway:443 HTTP/1.1\r\n" + HOST + b"\r\n", 405),
    (b"TRACE / HTTP/1.1\r\n" + HOST + b"\r\n", 405),
    *(
        (b"GET / HTTP/" + version + b"\r\n" + HOST + b"\r\n", 505)
        for version in (b"2.0", b"1.2", b"0.9", b"3.0", b"9.9")
    ),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    # other protocols
    (b"GET / HTTP/1.1\r\n" + HOST + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\n" + HOST + b"Upgrade: h2c\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\n" + HOST + b"Upgrade: anything\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\n" + HOST + b"HTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\n" + HOST + b"Connection: keep-alive,\tUpGrade\r\n\r\n", 400),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    # expectations and size
    (b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\nExpect: 200-ok\r\n\r\n", 417),
    (b"GET / HTTP/1.1\r\n" + HOST + b"X-A: " + b"b" * 16_400 + b"\r\n\r\n", 431),
    (b"GET /" + b"a" * 16_400, 431),
    (b"GET / HTTP/1.1\r\n" + HOST + b"X: y\r\n" * 100 + b"\r\n", 431),
]


@pytest.mark.parametrize("raw", ACCEPTED)
def test_plain_heads_are_accepted(raw: bytes) -> None:
    assert check_head(raw) is None
    assert check_head(raw + b"\x00any body\n") is None


@pytest.mark.parametrize(("raw", "status"), REFUSED, ids=lambda value: repr(value)[:70])
def test_doubtful_heads_are_refused(raw: bytes, status: int) -> None:
    fault = check_head(raw)
    assert isinstance(fault, Fault)
    assert fault.status == status


@pytest.mark.parametrize("raw", ACCEPTED)
def test_no_beginning_of_a_good_head_is_refused(raw: bytes) -> None:
    for length in range(len(raw)):
        assert check_head(raw[:length]) is None


@pytest.mark.parametrize(
    "raw",
    [
        b"\x00",
        b"\x80\x01",
        b"GET / HTTP/1.1\nHo",
        b"GET \x01",
        b"GET / HTTP/1.1\r\nA: \rb",
        b"GET / HTTP/1.1\r\nA: b\x00",
    ],
)
def test_garbage_is_refused_before_the_head_is_complete(raw: bytes) -> None:
    fault = check_head(raw)
    assert fault is not None
    assert fault.status == 400


def test_hundred_fields_and_sixteen_kilobytes_are_just_accepted() -> None:
    assert check_head(b"GET / HTTP/1.1\r\n" + HOST + b"X: y\r\n" * 99 + b"\r\n") is None
    start = b"GET / HTTP/1.1\r\n" + HOST + b"X: "
    assert check_head(start + b"y" * (16_384 - len(start) - 4) + b"\r\n\r\n") is None
    assert check_head(start + b"y" * (16_385 - len(start) - 4) + b"\r\n\r\n") is not None


def test_messages_never_repeat_what_the_client_sent() -> None:
    fault = check_head(b"GET / HTTP/1.1\r\n" + HOST + b"Content-Type: s3cret\r\nContent-Type: s3cret\r\n\r\n")
    assert fault is not None
    assert "s3cret" not in fault.message


pieces = st.sampled_from(
    [
        b"GET", b"POST", b"get", b" ", b"  ", b"/", b"/a?b", b"*", b" HTTP/1.1", b" HTTP/1.0", b" HTTP/2.0", b"\r\n", b"\n", b"\r",
        b"Host: g", b"Host:", b"host : g", b"X-A: b", b"x-a:\tb \t", b": ", b":", b" x", b"\x00", b"\x0b", b"\x0c", b"\x85", b"\xa0",
        b"Content-Length: 3", b"Content-Length: 3, 3", b"Transfer-Encoding: chunked", b"Transfer-Encoding:\x0bchunked", b"Expect: 100-continue",
    ]
)  # fmt: skip
composed = st.builds(
    lambda start, lines, tail: start + b"".join(lines) + tail,
    st.sampled_from([b"GET / HTTP/1.1\r\nHost: g\r\n", b"POST /a?b=c HTTP/1.0\r\n", b""]),
    st.lists(st.one_of(pieces, st.binary(max_size=4), pieces.map(lambda piece: piece + b"\r\n")), max_size=12),
    st.sampled_from([b"\r\n", b"\r\n\r\n", b"\n\n"]),
)


@settings(max_examples=400, deadline=None)
@given(composed)
def test_an_accepted_head_is_parsed_identically_by_h11(raw: bytes) -> None:
    if b"\r\n\r\n" in raw and check_head(raw) is None:
        assert_h11_agrees(raw)


@pytest.mark.parametrize("raw", ACCEPTED)
def test_plain_heads_are_parsed_identically_by_h11(raw: bytes) -> None:
    assert_h11_agrees(raw)


def assert_h11_agrees(raw: bytes) -> None:
    end = raw.index(b"\r\n\r\n")
    head = parse_head(raw[: end + 2])
    assert isinstance(head, Head)
    peer = h11.Connection(h11.SERVER)
    peer.receive_data(raw)
    request = peer.next_event()
    assert isinstance(request, h11.Request)
    assert (request.method, request.target, request.http_version) == (head.method, head.target, head.version)
    ours = [(name, value.lower() if name == b"transfer-encoding" else value) for name, value in head.fields]
    assert list(request.headers) == ours


@pytest.mark.parametrize(("raw", "_status"), REFUSED, ids=lambda value: repr(value)[:70])
def test_no_doubtful_head_is_plain(raw: bytes, _status: int) -> None:
    assert plain_head(raw) is None


@pytest.mark.parametrize(
    "raw",
    [
        b"POST / HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: g\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n",
        b"GET / HTTP/1.0\r\nHost: g\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: g\r\nConnection: keep-alive, close\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: g\r\nX-A: b\r\nx-a: c\r\n\r\n",
        b"BREW / HTTP/1.1\r\nHost: g\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: g\r\n",
    ],
)
def test_what_is_allowed_and_unusual_is_not_plain(raw: bytes) -> None:
    assert check_head(raw) is None
    assert plain_head(raw) is None


@pytest.mark.parametrize(("value", "last"), [(b"close", True), (b"Keep-Alive", False), (b"CLOSE", True)])
def test_plain_head_says_whether_the_client_wants_more(value: bytes, last: bool) -> None:
    head = plain_head(b"GET /a HTTP/1.1\r\nHost: g\r\nConnection: " + value + b"\r\n\r\nrest")
    assert head is not None
    assert (head.last, head.length) == (last, 0)


def test_plain_head_has_the_same_limits() -> None:
    start = b"GET / HTTP/1.1\r\n" + HOST
    fields = [b"X-%d: y\r\n" % number for number in range(100)]
    assert plain_head(start + b"".join(fields[:99]) + b"\r\n") is not None
    assert plain_head(start + b"".join(fields) + b"\r\n") is None
    room = 16_384 - len(start) - len(b"X: \r\n\r\n")
    assert plain_head(start + b"X: " + b"y" * room + b"\r\n\r\n") is not None
    assert plain_head(start + b"X: " + b"y" * (room + 1) + b"\r\n\r\n") is None


@settings(max_examples=600, deadline=None)
@given(composed, st.binary(max_size=8))
def test_a_plain_head_is_parsed_identically_by_both_our_parsers(raw: bytes, behind: bytes) -> None:
    plain = plain_head(raw + behind)
    if plain is None:
        return
    whole = raw + behind
    assert check_head(whole) is None
    head = parse_head(whole[: plain.end - 2])
    assert isinstance(head, Head)
    assert whole[: plain.end].endswith(b"\r\n\r\n")
    assert (plain.method, plain.target, b"1.1", tuple(plain.fields)) == (
        head.method, head.target, head.version, head.fields,
    )  # fmt: skip
    assert plain.length == int(dict(head.fields).get(b"content-length", b"0"))
