"""The framing of answers, alone: whatever an application says, a client's parser reads that and no more."""

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.server.connection_answer import AnswerFraming, BadAnswer

pieces = st.lists(st.binary(max_size=40), max_size=5)


def received(method: str, wire: bytes) -> tuple[h11.Response, bytes]:
    """The one answer in these bytes, as h11 reads it; nothing is left over."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method=method, target="/", headers=[("host", "g")]))
    client.send(h11.EndOfMessage())
    client.receive_data(wire)
    response = client.next_event()
    assert isinstance(response, h11.Response)
    body = b""
    while isinstance(event := client.next_event(), h11.Data):
        body += event.data
    assert isinstance(event, h11.EndOfMessage)
    assert client.trailing_data == (b"", False)
    return response, body


@given(
    pieces,
    st.booleans(),
    st.booleans(),
    st.sampled_from(["GET", "HEAD"]),
    st.sampled_from([200, 204, 304, 404, 503, 599]),
)
def test_every_answer_is_read_as_it_was_meant(
    body: list[bytes], known: bool, last: bool, method: str, status: int
) -> None:
    whole = b"".join(body)
    bodiless = method == "HEAD" or status in (204, 304)
    framing = AnswerFraming(head_only=method == "HEAD")
    headers = [(b"X-Kind", b"test")]
    if known and status not in (204, 304):
        headers.append((b"content-length", b"%d" % len(whole)))
    framing.begin(status, headers, last=last)
    wire = b"".join(framing.frame(piece, more=True) for piece in body) + framing.frame(b"", more=False)
    framing.check_end()
    response, got = received(method, wire)
    assert response.status_code == status
    assert got == (b"" if bodiless else whole)
    assert ((b"connection", b"close") in response.headers) == last
    assert (b"x-kind", b"test") in response.headers
    assert [name for name, _ in response.headers].count(b"date") == 1


@given(st.binary(max_size=12), st.binary(max_size=12))
def test_no_header_makes_another(name: bytes, value: bytes) -> None:
    framing = AnswerFraming(head_only=False)
    try:
        framing.begin(200, [(name, value), (b"content-length", b"0")], last=False)
    except BadAnswer:
        return
    response, _ = received("GET", framing.frame(b"", more=False))
    assert len(response.headers) <= 3


@pytest.mark.parametrize("value", [b"b\r\nx-evil: c", b"b\nx-evil: c", b"b\r", b"\x00", b"b\r\n\r\nbody"])
def test_value_that_brings_lines_of_its_own_is_refused(value: bytes) -> None:
    with pytest.raises(BadAnswer):
        AnswerFraming(head_only=False).begin(200, [(b"x-a", value)], last=False)


@pytest.mark.parametrize("value", [b"-1", b"", b"1,1", b"x"])
def test_length_that_is_no_number_is_refused(value: bytes) -> None:
    with pytest.raises(BadAnswer):
        AnswerFraming(head_only=False).begin(200, [(b"content-length", value)], last=False)


def test_application_that_wants_the_connection_closed_gets_that() -> None:
    framing = AnswerFraming(head_only=False)
    framing.begin(200, [(b"Connection", b"close"), (b"content-length", b"0")], last=False)
    assert framing.last
    assert framing.take_head().lower().count(b"connection: close") == 1


def test_chunking_is_ours_to_say() -> None:
    framing = AnswerFraming(head_only=False)
    framing.begin(200, [(b"transfer-encoding", b"chunked")], last=False)
    assert framing.take_head().count(b"chunked") == 1
