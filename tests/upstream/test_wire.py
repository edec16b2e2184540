"""The reader of responses: any cut gives the same, the hostile is a problem in words, nothing is ever raised."""

import itertools
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.upstream.wire import CUT_SHORT, INVALID, MAX_FRAMING_BYTES, ResponseHead, ResponseReader

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


@dataclass(frozen=True)
class Outcome:
    head: ResponseHead | None
    body: bytes
    ended: bool
    problem: str | None


def read(*pieces, eof=True):
    reader = ResponseReader()
    body = b""
    for piece in pieces:
        reader.feed(piece)
        body += reader.take()
    if eof:
        reader.feed_eof()
    return Outcome(reader.head, body, reader.ended, reader.problem)


GOOD = {
    "a length": (OK + b"Content-Length: 5\r\nContent-Type: text/plain\r\n\r\nhello", b"hello"),
    "no body": (OK + b"Content-Length: 0\r\n\r\n", b""),
    "204": (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
    "chunks": (CHUNKED + b"5\r\nhello\r\n6;ext=1\r\n world\r\n0\r\n\r\n", b"hello world"),
    "chunks and trailers": (CHUNKED + b"2\r\nhi\r\n0\r\nX-Checksum: 1\r\nX-Other: 9\r\n\r\n", b"hi"),
    "chunks in capitals": (OK + b"TRANSFER-ENCODING: Chunked\r\n\r\nA\r\n0123456789\r\n0\r\n\r\n", b"0123456789"),
    "until the end": (OK + b"Content-Type: text/event-stream\r\n\r\ndata: x\n\n", b"data: x\n\n"),
    "HTTP/1.0": (b"HTTP/1.0 200 OK\r\nServer: BaseHTTP/0.6\r\n\r\n{}", b"{}"),
    "HTTP/1.0 with a length": (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}", b"{}"),
    "no reason": (b"HTTP/1.1 200\r\nContent-Length: 2\r\n\r\n{}", b"{}"),
    "an empty header": (OK + b"X-Empty:\r\nContent-Length: 2\r\n\r\n{}", b"{}"),
    "100 and 103 first": (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: a\r\nContent-Encoding: gzip\r\n\r\n"
        + OK
        + b"Content-Length: 2\r\n\r\nhi",
        b"hi",
    ),
    "identity": (OK + b"Content-Encoding: identity\r\nContent-Length: 2\r\n\r\nhi", b"hi"),
    "something after the end": (OK + b"Content-Length: 2\r\n\r\nhiHTTP/1.1 500 No\r\n\r\n", b"hi"),
    "garbage after the end": (OK + b"Connection: close\r\nContent-Length: 2\r\n\r\nhi\0\0\0", b"hi"),
    "an error": (b"HTTP/1.1 503 Busy\r\nRetry-After: 7\r\nContent-Length: 4\r\n\r\nbusy", b"busy"),
    "cut characters": (CHUNKED + b"1\r\n\xe2\r\n2\r\n\x98\x83\r\n0\r\n\r\n", "☃".encode()),
}


@pytest.mark.parametrize("name", GOOD)
def test_good_response_is_read_to_its_end(name):
    wire, body = GOOD[name]
    outcome = read(wire)
    assert (outcome.body, outcome.ended, outcome.problem) == (body, True, None)


@pytest.mark.parametrize("name", GOOD)
def test_every_shorter_response_is_a_problem_or_a_body_that_ends_with_the_connection(name):
    wire, body = GOOD[name]
    for cut in range(len(wire)):
        outcome = read(wire[:cut])
        assert outcome.ended is (outcome.problem is None)
        assert body.startswith(outcome.body)
        if outcome.ended and not outcome.head.until_close:
            assert outcome.body == body


def test_head_says_what_it_is_asked_for():
    head = read(GOOD["an error"][0]).head
    assert (head.status, head.retry_after, head.length, head.until_close) == (503, "7", 4, False)
    assert read(GOOD["a length"][0]).head.content_type == "text/plain"
    assert read(GOOD["until the end"][0]).head.until_close


@pytest.mark.parametrize("status", [301, 302, 304, 307])
def test_redirect_is_an_answer_where_it_is_wanted(status):
    wire = b"HTTP/1.1 %d X\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n" % status
    reader = ResponseReader(redirects=True)
    reader.feed(wire)
    assert (reader.ended, reader.problem) == (True, None)
    assert (reader.head.status, reader.head.location) == (status, "/x")


HEAD_PROBLEMS = {
    "HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", INVALID),
    "HTTP/2 settings": (b"\x00\x00\x12\x04\x00\x00\x00\x00\x00\x00\x03", INVALID),
    "another protocol": (b"SSH-2.0-OpenSSH_9.6\r\n", INVALID),
    "no version": (b"200 OK\r\n\r\n", INVALID),
    "HTTP/3.0": (b"HTTP/3.0 200 OK\r\n\r\n", INVALID),
    "no status": (b"HTTP/1.1 OK\r\n\r\n", INVALID),
    "status 99": (b"HTTP/1.1 099 OK\r\n\r\n", None),
    "status 1000": (b"HTTP/1.1 1000 OK\r\n\r\n", INVALID),
    "a length and chunks": (OK + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\nhi", INVALID),
    "chunks and a length": (OK + b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\nhi", INVALID),
    "two lengths": (OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nhi", INVALID),
    "two equal lengths": (OK + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\nhi", INVALID),
    "a list of lengths": (OK + b"Content-Length: 2, 2\r\n\r\nhi", INVALID),
    "a negative length": (OK + b"Content-Length: -2\r\n\r\nhi", INVALID),
    "a length with a sign": (OK + b"Content-Length: +2\r\n\r\nhi", INVALID),
    "a hexadecimal length": (OK + b"Content-Length: 0x2\r\n\r\nhi", INVALID),
    "a length beyond 64 bits": (OK + b"Content-Length: 18446744073709551617\r\n\r\nhi", INVALID),
    "an empty length": (OK + b"Content-Length: \r\n\r\nhi", INVALID),
    "a bare line feed": (b"HTTP/1.1 200 OK\nContent-Length: 2\n\nhi", INVALID),
    "a bare carriage return": (OK + b"X: a\rb\r\nContent-Length: 2\r\n\r\nhi", INVALID),
    "NUL in a header": (OK + b"X: a\0b\r\n\r\n", INVALID),
    "a folded header": (OK + b"X: a\r\n b\r\nContent-Length: 2\r\n\r\nhi", INVALID),
    "a space before the colon": (OK + b"Content-Length : 2\r\n\r\nhi", INVALID),
    "a huge header": (OK + b"X: " + b"a" * 200_000 + b"\r\n\r\n", "too many headers"),
    "large headers": (OK + b"".join(b"X: %s\r\n" % (b"a" * 4000) for _ in range(9)) + b"\r\n", "too many headers"),
    "many headers": (OK + b"X: a\r\n" * 101 + b"\r\n", "too many headers"),
    "an endless reason": (b"HTTP/1.1 200 " + b"O" * 200_000, "too many headers"),
    "endless informational": (b"HTTP/1.1 102 Processing\r\n\r\n" * 5000, "too many headers"),
    "gzip": (OK + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\nhi", "compressed"),
    "identity and gzip": (
        OK + b"Content-Encoding: identity\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\nhi",
        "compressed",
    ),
    "gzip in chunks": (OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", "transfer encoding"),
    "gzip to the end": (OK + b"Transfer-Encoding: gzip\r\n\r\nhi", "transfer encoding"),
    "a redirect": (b"HTTP/1.1 307 Elsewhere\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n", "a redirect"),
    "304": (b"HTTP/1.1 304 Not Modified\r\n\r\n", "a redirect"),
    "switching protocols": (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nhello",
        "answered 101",
    ),
    "101 without an upgrade": (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", "answered 101"),
    "status 999": (b"HTTP/1.1 999 Denied\r\nContent-Length: 0\r\n\r\n", "answered 999"),
}


@pytest.mark.parametrize("name", HEAD_PROBLEMS)
def test_head_that_is_not_wanted_is_a_problem_and_gives_no_body(name):
    wire, words = HEAD_PROBLEMS[name]
    for outcome in (read(wire), read(*(wire[at : at + 1] for at in range(len(wire)))), read(wire, eof=False)):
        assert outcome.problem is not None
        assert words is None or words in outcome.problem
        assert (outcome.head, outcome.body, outcome.ended) == (None, b"", False)


BODY_PROBLEMS = {
    "a chunk size that is none": (CHUNKED + b"zz\r\n", b"", INVALID),
    "a negative chunk": (CHUNKED + b"-2\r\nhi\r\n0\r\n\r\n", b"", INVALID),
    "a chunk beyond 64 bits": (CHUNKED + b"11111111111111111\r\n", b"", INVALID),
    "a chunk with a prefix": (CHUNKED + b"0x2\r\nhi\r\n0\r\n\r\n", b"", INVALID),
    "a chunk that is longer than it says": (CHUNKED + b"2\r\nhi!\r\n0\r\n\r\n", b"hi", INVALID),
    "a chunk size ended by a line feed": (CHUNKED + b"2\nhi\r\n0\r\n\r\n", b"", INVALID),
    "an endless chunk extension": (CHUNKED + b"2;" + b"a" * 200_000, b"", INVALID),
    "an endless trailer": (CHUNKED + b"2\r\nhi\r\n0\r\nX: " + b"a" * 200_000, b"hi", None),
    "many trailers": (CHUNKED + b"2\r\nhi\r\n0\r\n" + b"X: a\r\n" * 200 + b"\r\n", b"hi", "too many headers"),
    "cut in a body with a length": (OK + b"Content-Length: 50\r\n\r\nhi", b"hi", CUT_SHORT),
    "cut in a chunk": (CHUNKED + b"5\r\nhi", b"hi", CUT_SHORT),
    "cut in a chunk size": (CHUNKED + b"2\r\nhi\r\n5", b"hi", CUT_SHORT),
    "cut after a chunk": (CHUNKED + b"2\r\nhi\r\n", b"hi", CUT_SHORT),
    "cut in the last chunk": (CHUNKED + b"2\r\nhi\r\n0\r\n", b"hi", CUT_SHORT),
    "cut in a trailer": (CHUNKED + b"2\r\nhi\r\n0\r\nX: ", b"hi", CUT_SHORT),
}


@pytest.mark.parametrize("name", BODY_PROBLEMS)
def test_body_that_breaks_gives_what_came_before_and_then_the_problem(name):
    wire, body, words = BODY_PROBLEMS[name]
    for outcome in (read(wire), read(*(wire[at : at + 1] for at in range(len(wire))))):
        assert (outcome.body, outcome.ended) == (body, False)
        assert words is None or words in outcome.problem


def cut(wire, places):
    edges = [0, *sorted(place % (len(wire) + 1) for place in places), len(wire)]
    return [wire[a:b] for a, b in itertools.pairwise(edges) if a < b]


SMALL = [wire for wire, *_ in [*GOOD.values(), *HEAD_PROBLEMS.values(), *BODY_PROBLEMS.values()] if len(wire) < 4000]


@given(wire=st.sampled_from(SMALL), places=st.lists(st.integers(0, 4000), max_size=12))
def test_any_cut_of_the_same_bytes_is_read_the_same(wire, places):
    assert read(*cut(wire, places)) == read(wire)


@given(
    pieces=st.lists(st.binary(min_size=1, max_size=300), max_size=8),
    places=st.lists(st.integers(0, 4000), max_size=8),
    form=st.sampled_from(["length", "chunked", "until close"]),
)
def test_any_body_in_any_framing_comes_through_unchanged(pieces, places, form):
    body = b"".join(pieces)
    wire = {
        "length": OK + b"Content-Length: %d\r\n\r\n" % len(body) + body,
        "chunked": CHUNKED + b"".join(b"%x\r\n%s\r\n" % (len(one), one) for one in pieces) + b"0\r\n\r\n",
        "until close": OK + b"\r\n" + body,
    }[form]
    outcome = read(*cut(wire, places))
    assert (outcome.body, outcome.ended, outcome.problem) == (body, True, None)


@given(st.lists(st.binary(max_size=200), max_size=6), st.booleans())
def test_random_bytes_never_raise(pieces, with_head):
    outcome = read(CHUNKED if with_head else b"", *pieces)
    assert outcome.ended is (outcome.problem is None)


def test_framing_without_a_body_is_bounded_by_a_run_of_it_not_by_the_whole():
    reader = ResponseReader()
    reader.feed(CHUNKED)
    for _ in range(2 * MAX_FRAMING_BYTES // 1000):
        reader.feed(b"1;" + b"x" * 1000 + b"\r\na\r\n")
    assert reader.problem is None


def test_one_feed_with_many_chunks_is_taken_in_one_piece():
    reader = ResponseReader()
    reader.feed(CHUNKED + b"2\r\nhi\r\n" * 50)
    assert reader.take() == b"hi" * 50
    assert reader.take() == b""


def test_after_discard_nothing_is_read():
    reader = ResponseReader()
    reader.discard()
    reader.feed(OK + b"\r\n")
    assert reader.head is None
