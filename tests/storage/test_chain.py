"""Chain: a record is one line that nobody can change, drop or move without being found out."""

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.protocol.canonical import canonical_json, sha256_hex
from appliance.storage.chain import GENESIS, BadRecord, Link, make_draft, read_record, seal, verify_lines

FIELDS = st.dictionaries(
    st.text(max_size=5),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
        max_leaves=5,
    ),
    max_size=6,
).filter(lambda fields: not {"seq", "prev", "hash"} & set(fields))


def make_lines(*many_fields: dict[str, object], before: Link = GENESIS) -> list[bytes]:
    lines = []
    for fields in many_fields:
        sealed = seal(make_draft(fields), before)
        lines.append(sealed.line + b"\n")
        before = sealed.link
    return lines


def five_lines() -> list[bytes]:
    return make_lines(*({"args": {"text": "é☃"}, "ok": True, "replay_id": f"tool-{n}", "ts": n / 3} for n in range(5)))


def test_record_is_written_as_in_every_version_of_this_program() -> None:
    body = b'{"args":{},"ok":true,"prev":"%b","replay_id":"tool-1","seq":1,"ts":1.5}' % (b"0" * 64)
    line = body.replace(b'"ok"', b'"hash":"%b","ok"' % sha256_hex(body).encode(), 1)
    assert make_lines({"ts": 1.5, "replay_id": "tool-1", "args": {}, "ok": True}) == [line + b"\n"]


@given(FIELDS, st.integers(0, 10**15))
def test_line_is_the_canonical_json_of_its_fields_and_reads_back(fields: dict[str, object], seq: int) -> None:
    before = Link(seq, "ab" * 32)
    sealed = seal(make_draft(fields), before)
    parsed = json.loads(sealed.line)
    assert canonical_json(parsed).encode() == sealed.line
    assert parsed == {**fields, "seq": seq + 1, "prev": before.hash, "hash": sealed.link.hash}
    record = read_record(sealed.line)
    assert (record.link, record.prev, dict(record.fields)) == (sealed.link, before.hash, fields)


@pytest.mark.parametrize("name", ["seq", "prev", "hash"])
def test_names_of_the_chain_are_refused_as_fields(name: str) -> None:
    with pytest.raises(ValueError, match="the chain's own"):
        make_draft({name: 1})


def test_whole_chain_is_good_and_says_where_it_begins_and_ends() -> None:
    lines = five_lines()
    found = verify_lines(lines)
    assert (found.records, found.first_seq, found.flaw) == (5, 1, None)
    assert found.head is not None
    assert found.head == Link(5, json.loads(lines[-1])["hash"])
    rest = verify_lines(lines[3:], after=verify_lines(lines[:3]).head)
    assert (rest.records, rest.first_seq, rest.head) == (2, 4, found.head)


def test_empty_log_is_good_and_has_no_head() -> None:
    found = verify_lines([])
    assert (found.records, found.first_seq, found.head, found.flaw) == (0, None, None, None)


@given(st.data())
def test_byte_flipped_anywhere_is_found_in_its_line(data: st.DataObject) -> None:
    text = b"".join(five_lines())
    position = data.draw(st.integers(0, len(text) - 1))
    value = data.draw(st.integers(1, 255))
    flipped = bytearray(text)
    flipped[position] ^= value
    found = verify_lines(io.BytesIO(flipped))
    assert found.flaw is not None
    assert found.flaw.line == text[:position].count(b"\n") + 1
    assert found.records == found.flaw.line - 1


@given(st.data())
def test_line_dropped_doubled_or_moved_is_found(data: st.DataObject) -> None:
    lines = five_lines()
    order = data.draw(st.lists(st.integers(0, 4), max_size=7))
    found = verify_lines([lines[number] for number in order])
    sound = next((n for n, number in enumerate(order) if n and number != order[n - 1] + 1), len(order))
    assert found.records == sound
    assert (found.flaw is None) == (sound == len(order))


def test_later_start_is_taken_as_it_is_and_a_wrong_genesis_is_not() -> None:
    assert verify_lines(five_lines()[2:]).flaw is None
    flaw = verify_lines(make_lines({}, before=Link(0, "f" * 64))).flaw
    assert flaw is not None
    assert "prev" in flaw.reason


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"", "not JSON"),
        (b"{}", "no seq"),
        (b"[]", "no JSON object"),
        (b"[" * 100_000, "not JSON"),
        (b'{"a":"\xc3\xa9"}', "not ASCII"),
        (b'{"hash":"%b","prev":"%b","seq":true}' % (b"0" * 64, b"0" * 64), "seq"),
        (b'{"hash":"%b","prev":"%b","seq":0}' % (b"0" * 64, b"0" * 64), "seq"),
        (b'{"hash":"%b","prev":"%b","seq":1}' % (b"0" * 63, b"0" * 64), "64 hex"),
        (b'{"hash":"%b","prev":"%b","seq":1}' % (b"0" * 64, b"0" * 64), "match its hash"),
        (b'{"a":NaN,"hash":"%b","prev":"%b","seq":1}' % (b"0" * 64, b"0" * 64), "no record has"),
    ],
)
def test_line_that_is_no_record_says_why(line: bytes, reason: str) -> None:
    with pytest.raises(BadRecord, match=reason):
        read_record(line)


def test_other_spelling_of_a_good_record_is_not_canonical() -> None:
    line = five_lines()[0][:-1]
    for other in (line.replace(b":true", b": true"), line + b" ", line.replace(b'{"args"', b'{"ok":true,"args"')):
        with pytest.raises(BadRecord, match="canonical"):
            read_record(other)


def test_torn_last_line_is_found() -> None:
    lines = five_lines()
    for cut in (1, 2, len(lines[4]) - 1):
        flaw = verify_lines([*lines[:4], lines[4][:-cut]]).flaw
        assert flaw is not None
        assert (flaw.line, "no end" in flaw.reason) == (5, True)
