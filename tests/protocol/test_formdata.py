"""Form data: however a form is cut into reads, its parts are the same; what is no form is refused, and nothing more."""

import contextlib
from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from appliance.protocol.errors import InvalidRequest, UnsupportedMediaType
from appliance.protocol.formdata import MAX_FIELD_BYTES, MAX_PARTS, FormReader, form_boundary
from appliance.protocol.formparts import PartBegin, PartData

FILES = frozenset({"image", "mask"})
BOUNDARY_CHARS = "0123456789abcdefXYZ'()+_,-./:=?"

boundaries = st.text(BOUNDARY_CHARS, min_size=1, max_size=70)
names = st.sampled_from(["prompt", "n", "größe", "a b", "image", "mask"])
# Made of what boundaries are made of, so that a boundary nearly occurs in what it bounds.
contents = st.lists(st.sampled_from([b"\r", b"\n", b"--", b"-", b"b", b"\r\n--b", b"\0", b"x" * 40]), max_size=12).map(
    b"".join
)


def encode(boundary: str, parts: Iterable[tuple[str, bytes]]) -> bytes:
    body = b""
    for name, content in parts:
        filename = '; filename="x.png"' if name in FILES else ""
        body += f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"{filename}\r\n\r\n'.encode()
        body += content + b"\r\n"
    return body + f"--{boundary}--\r\n".encode()


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[start:end] for start, end in pairwise(edges)]


def read(boundary: str, pieces: Iterable[bytes]) -> list[tuple[str, bytes]]:
    reader = FormReader(boundary.encode(), FILES)
    events = [event for piece in pieces for event in reader.feed(piece)]
    events += reader.finish()
    found: list[tuple[str, bytes]] = []
    complete = True
    for event in events:
        if isinstance(event, PartBegin):
            assert complete, "a part began before the last one was complete"
            assert event.is_file == (event.name in FILES)
            found.append((event.name, b""))
        else:
            found[-1] = (found[-1][0], found[-1][1] + event.data)
        complete = isinstance(event, PartData) and event.last
    assert complete or not found
    return found


@given(boundaries, st.lists(st.tuples(names, contents), max_size=8), st.lists(st.integers(0, 10_000), max_size=20))
@example("b", [("image", b"\r\n--b"[:-1] + b"\r\n--bx")], [])
def test_parts_are_the_same_wherever_the_form_is_cut(
    boundary: str, parts: list[tuple[str, bytes]], places: list[int]
) -> None:
    body = encode(boundary, parts)
    if any(f"--{boundary}".encode() in content for _, content in parts):
        return  # a sender chooses a boundary that does not occur
    assert read(boundary, cut(body, places)) == parts
    assert read(boundary, [body[at : at + 1] for at in range(len(body))]) == parts


@given(st.binary(max_size=400), st.lists(st.integers(0, 400), max_size=5))
@example(b"--b\r\n\r\n", [])
@example(b'--b\r\nContent-Disposition: form-data; name="\xff"\r\n\r\nx\r\n--b--', [])
@example(b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--\r\n", [])
@example(b"--b--", [])
def test_what_is_no_form_is_refused_and_nothing_else_is_raised(body: bytes, places: list[int]) -> None:
    with contextlib.suppress(InvalidRequest):
        read("b", cut(body, places))


@given(st.lists(st.tuples(names, contents), min_size=1, max_size=3), st.integers(1, 200))
def test_a_form_that_is_broken_off_is_refused(parts: list[tuple[str, bytes]], missing: int) -> None:
    body = encode("boundary-boundary", parts)
    kept = body[: max(len(body) - missing - len(b"\r\n"), 0)]
    if kept.endswith(b"--boundary-boundary--"):
        return
    with pytest.raises(InvalidRequest):
        read("boundary-boundary", [kept])


def test_too_many_parts_are_refused() -> None:
    read("b", [encode("b", [("n", b"1")] * MAX_PARTS)])
    with pytest.raises(InvalidRequest, match="more than 64 parts"):
        read("b", [encode("b", [("n", b"1")] * (MAX_PARTS + 1))])


def test_a_field_is_bounded_and_a_file_is_not() -> None:
    assert len(read("b", [encode("b", [("image", b"x" * 1_000_000)])])[0][1]) == 1_000_000
    with pytest.raises(InvalidRequest, match="prompt is longer"):
        read("b", [encode("b", [("prompt", b"x" * (MAX_FIELD_BYTES + 1))])])


@pytest.mark.parametrize("start", [b"x" * 1_000_000, b"--b\r\nX: " + b"x" * 1_000_000])
def test_a_preamble_or_a_head_without_end_is_not_kept(start: bytes) -> None:
    with pytest.raises(InvalidRequest, match="head is too long"):
        read("b", [start])


def test_a_file_under_a_name_that_is_no_picture_is_refused_by_name() -> None:
    body = encode("b", [("image", b"x")]).replace(b'name="image"', b'name="markup"')
    with pytest.raises(InvalidRequest) as caught:
        read("b", [body])
    assert caught.value.param == "markup"


@pytest.mark.parametrize("header", ["multipart/form-data; boundary=x", 'Multipart/Form-Data;boundary="x"'])
def test_the_boundary_is_read_in_every_spelling(header: str) -> None:
    assert form_boundary(header) == b"x"


@pytest.mark.parametrize("header", ["", "application/json", "multipart/mixed; boundary=x"])
def test_other_types_are_415(header: str) -> None:
    with pytest.raises(UnsupportedMediaType):
        form_boundary(header)


@pytest.mark.parametrize("header", ["multipart/form-data", "multipart/form-data; boundary=" + "x" * 71])
def test_a_boundary_that_cannot_be_one_is_400(header: str) -> None:
    with pytest.raises(InvalidRequest):
        form_boundary(header)
