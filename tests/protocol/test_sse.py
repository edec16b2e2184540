"""Server-sent events: however a stream is cut into reads, the same whole events come out, unchanged."""

import itertools
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from appliance.protocol.sse import DONE, PING, SseReader, SseTooLong, data_of, is_done, sse_event

LINE_ENDS = ["\n", "\r\n", "\r"]
MARK = b"\xef\xbb\xbf"

# Bytes of which streams are made, so that line ends, marks and characters of several bytes meet in every order.
pieces = st.sampled_from(
    [b"\n", b"\r", b"\r\n", b"data: ", b"data:", b": ", b"x", "é☃😀".encode(), MARK, b"\xff", b"event: a"]
)
streams = st.lists(pieces, max_size=40).map(b"".join)


def read_whole(stream: bytes) -> tuple[list[bytes], bytes]:
    reader = SseReader()
    return reader.feed(stream), reader.rest


def read_in_pieces(stream: bytes, cuts: list[int]) -> tuple[list[bytes], bytes]:
    reader = SseReader()
    events = []
    edges = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    for start, end in itertools.pairwise(edges):
        events += reader.feed(stream[start:end])
    return events, reader.rest


@given(streams, st.lists(st.integers(0, 400), max_size=8))
@example(b"data: a\r\n\r\ndata: b\r\n\r\n", [8, 9, 10, 11])
@example(MARK + b"data: a\n\n", [1, 2])
@example(b"x\n\r\n", [2, 3])
@example(b"x\n\r\r\n", [2, 3])
def test_any_cut_of_any_stream_gives_the_same_events(stream: bytes, cuts: list[int]) -> None:
    assert read_in_pieces(stream, cuts) == read_whole(stream)


@given(streams)
def test_single_bytes_give_the_same_events_as_one_read(stream: bytes) -> None:
    assert read_in_pieces(stream, list(range(len(stream)))) == read_whole(stream)


@given(streams)
def test_nothing_is_lost_and_nothing_is_added(stream: bytes) -> None:
    events, rest = read_whole(stream)
    whole = rest if MARK.startswith(stream) and stream != MARK else stream.removeprefix(MARK)
    assert b"".join(events) + rest == whole


def interpret(stream: bytes) -> list[bytes]:
    """The data that the format's own algorithm dispatches: line by line, a blank one dispatches."""
    dispatched: list[bytes] = []
    data: list[bytes] = []
    for line in re.split(rb"\r\n|\r|\n", stream)[:-1]:
        if not line and data:
            dispatched.append(b"\n".join(data))
            data = []
        name, _, value = line.partition(b":")
        if name == b"data":
            data.append(value.removeprefix(b" "))
    return dispatched


@given(streams)
def test_events_are_where_the_format_says(stream: bytes) -> None:
    events, rest = read_whole(stream)
    assert [data for event in events if (data := data_of(event)) is not None] == interpret(b"".join(events))
    assert interpret(rest.removesuffix(b"\r")) == []
    assert all(len(interpret(event)) <= 1 for event in events)


@given(
    st.lists(
        st.lists(st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"])), min_size=1), min_size=1
    ),
    st.lists(st.integers(0, 4000), max_size=8),
    st.sampled_from(LINE_ENDS),
)
def test_data_that_was_written_is_read_back_over_every_line_end(
    texts: list[list[str]], cuts: list[int], line_end: str
) -> None:
    written = b"".join(sse_event("\n".join(lines), "name").replace(b"\n", line_end.encode()) for lines in texts)
    events, rest = read_in_pieces(written, cuts)
    assert [data_of(event) for event in events] == ["\n".join(lines).encode() for lines in texts]
    assert rest == b""


def test_events_that_use_cr_alone_are_not_held_back() -> None:
    assert SseReader().feed(b"data: a\r\r") == [b"data: a\r\r"]


def test_a_crlf_event_whose_last_lf_is_in_the_next_read_stays_whole() -> None:
    reader = SseReader()
    assert reader.feed(b"data: a\r\n\r") == []
    assert reader.feed(b"\ndata: b") == [b"data: a\r\n\r\n"]
    assert reader.rest == b"data: b"


def test_a_read_of_one_whole_event_is_not_copied() -> None:
    reader = SseReader()
    reader.feed(DONE)
    read = b"data: " + b"x" * 200 + b"\n\n"
    assert reader.feed(read)[0] is read


def test_comments_pass_as_they_are_and_have_no_data() -> None:
    assert SseReader().feed(b": ping\n\n: \n\ndata: a\n\n") == [PING, b": \n\n", b"data: a\n\n"]
    assert data_of(PING) is None


def test_a_byte_order_mark_at_the_start_is_dropped_and_a_later_one_kept() -> None:
    reader = SseReader()
    assert reader.feed(MARK[:2]) == []
    assert reader.feed(MARK[2:] + b"data: " + MARK + b"\n\n") == [b"data: " + MARK + b"\n\n"]


def test_blank_lines_that_end_nothing_are_kept() -> None:
    assert SseReader().feed(b"\n\ndata: a\n\n\ndata: b\n\n") == [b"\n\n", b"data: a\n\n", b"\ndata: b\n\n"]


def test_rest_is_what_a_broken_stream_left() -> None:
    reader = SseReader()
    reader.feed(b'data: a\n\ndata: {"x":"\xf0\x9f')
    assert reader.rest == b'data: {"x":"\xf0\x9f'


@pytest.mark.parametrize("read_size", [1, 7, 64, 4096])
def test_a_line_without_an_end_is_refused_once_it_is_too_long(read_size: int) -> None:
    reader = SseReader(max_event_bytes=100)
    with pytest.raises(SseTooLong, match="longer than 100 bytes"):
        for _ in range(4096 // read_size):
            reader.feed(b"x" * read_size)
    assert len(reader.rest) <= 100 + read_size


@pytest.mark.parametrize("read_size", [1, 7, 64, 4096])
def test_events_before_one_that_is_too_long_are_still_given(read_size: int) -> None:
    stream = b"data: a\n\n" * 3 + b"data: " + b"x" * 200 + b"\n\n" + b"data: b\n\n"
    reader = SseReader(max_event_bytes=100)
    events: list[bytes] = []
    with pytest.raises(SseTooLong):
        for start in range(0, len(stream) + read_size, read_size):
            events += reader.feed(stream[start : start + read_size])
    assert events == [b"data: a\n\n"] * 3


def test_many_lines_without_a_blank_one_are_too_long_as_well() -> None:
    reader = SseReader(max_event_bytes=100)
    with pytest.raises(SseTooLong):
        for _ in range(30):
            reader.feed(b"data: a\n")


def test_an_event_as_long_as_the_limit_is_taken() -> None:
    event = b"data: " + b"x" * 92 + b"\n\n"
    assert SseReader(max_event_bytes=len(event)).feed(event) == [event]


@pytest.mark.parametrize(
    ("event", "data"),
    [
        (b"data: a\n\n", b"a"),
        (b"data:a\n\n", b"a"),
        (b"data:  a\n\n", b" a"),
        (b"data\n\n", b""),
        (b"data:\n\n", b""),
        (b"data: \n\n", b""),
        (b"data: a\ndata: b\n\n", b"a\nb"),
        (b"data: a\rdata: b\n\n", b"a\nb"),
        (b"event: x\r\nid: 1\r\ndata: a\r\n\r\n", b"a"),
        (b"\ndata: a\n\n", b"a"),
        (b"data : a\n\n", None),
        (b"database: a\n\n", None),
        (b" data: a\n\n", None),
        (b"event: x\n\n", None),
        (b"\n\n", None),
        (b"", None),
    ],
)
def test_data_is_what_the_format_says(event: bytes, data: bytes | None) -> None:
    assert data_of(event) == data


@pytest.mark.parametrize(
    ("event", "done"),
    [
        (DONE, True),
        (b"data:[DONE]\n\n", True),
        (b"data: [DONE]\r\n\r\n", True),
        (b"event: done\ndata: [DONE] \n\n", True),
        (b'data: {"content":"[DONE]"}\n\n', False),
        (b": [DONE]\n\n", False),
        (b"data: x\n\n", False),
    ],
)
def test_done_is_recognised_however_it_is_written(event: bytes, done: bool) -> None:
    assert is_done(event) is done


def test_an_event_is_written_with_its_name_before_its_data() -> None:
    assert sse_event('{"a":1}', "error") == b'event: error\ndata: {"a":1}\n\n'
    assert sse_event(b"[DONE]") == DONE
    assert sse_event("a\r\nb\nc") == b"data: a\ndata: b\ndata: c\n\n"
    assert sse_event("a\rb") == b"data: a\ndata: b\n\n"
