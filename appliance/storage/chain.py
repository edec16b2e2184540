"""Chain: records of one line of canonical JSON, each holding the hash of the one before. Pure: bytes in, bytes out."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from appliance.protocol.canonical import canonical_json, sha256_hex

RESERVED = frozenset({"seq", "prev", "hash"})


class BadRecord(ValueError):
    """A line that is no record of the chain; the message says why, in a few words."""


@dataclass(frozen=True, slots=True)
class Link:
    """A record's place in its chain. `seq` counts from 1; `hash` is 64 lowercase hex digits."""

    seq: int
    hash: str


GENESIS = Link(0, "0" * 64)
"""What comes before the first record."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A record's own fields as canonical JSON, waiting for its place: what sorts before `hash`, `prev`, `seq`, after."""

    pieces: tuple[bytes, bytes, bytes, bytes]

    @property
    def size(self) -> int:
        return sum(map(len, self.pieces))


@dataclass(frozen=True, slots=True)
class Sealed:
    """One line, without its newline, and the link that the next record is chained to."""

    line: bytes
    link: Link


@dataclass(frozen=True, slots=True)
class Record:
    """A line that was read and found whole: its place, its own fields, and the hash of the record before it."""

    line: bytes
    link: Link
    prev: str
    fields: Mapping[str, Any]


def make_draft(fields: Mapping[str, object]) -> Draft:
    """Write the fields as canonical JSON, once. Raises TypeError, ValueError: not JSON, or a name of the chain's own."""
    groups: tuple[dict[str, object], ...] = ({}, {}, {}, {})
    for key, value in fields.items():
        groups[(key > "hash") + (key > "prev") + (key > "seq")][key] = value
    if not RESERVED.isdisjoint(fields):
        raise ValueError(f"the fields {', '.join(sorted(RESERVED))} are the chain's own")
    first, second, third, fourth = (canonical_json(group)[1:-1].encode("ascii") for group in groups)
    return Draft((first, second, third, fourth))


def seal(draft: Draft, before: Link) -> Sealed:
    """Give a record its place after `before`. Its `hash` is the SHA-256 of the canonical line without `hash` itself."""
    seq = before.seq + 1
    first, second, third, fourth = draft.pieces
    middle = b'"prev":"%b"' % before.hash.encode("ascii")
    rest = b",".join(filter(None, (second, middle, third, b'"seq":%d' % seq, fourth)))
    head = b"{" + first + b"," if first else b"{"
    digest = sha256_hex(b"".join((head, rest, b"}")))
    line = b"".join((head, b'"hash":"', digest.encode("ascii"), b'",', rest, b"}"))
    return Sealed(line, Link(seq, digest))


def read_record(line: bytes) -> Record:
    """Read one line, without its newline, and check it by itself. Raises BadRecord."""
    fields = _parse(line)
    try:
        seq, prev, digest = fields.pop("seq"), fields.pop("prev"), fields.pop("hash")
    except KeyError as missing:
        raise BadRecord(f"it has no {missing.args[0]}") from None
    if type(seq) is not int or seq < 1:
        raise BadRecord("seq is no number from 1")
    if not _is_hash(prev) or not _is_hash(digest):
        raise BadRecord("prev or hash is not 64 hex digits")
    sealed = seal(_draft_again(fields), Link(seq - 1, prev))
    if sealed.link.hash != digest:
        raise BadRecord("its bytes do not match its hash: something was changed")
    if sealed.line != line:
        raise BadRecord("it is not canonical JSON")
    return Record(line, sealed.link, prev, fields)


def check_order(record: Record, before: Link | None) -> None:
    """Check that a record follows `before`; None: the start is not known, as when older records were deleted.

    Raises BadRecord.
    """
    if before is None and record.link.seq == 1:
        before = GENESIS
    if before is None:
        return
    if record.link.seq != before.seq + 1:
        raise BadRecord(f"seq {record.link.seq} comes after {before.seq}: records are missing or out of order")
    if record.prev != before.hash:
        raise BadRecord("its prev is not the hash of the record before: one of the two was changed")


@dataclass(frozen=True, slots=True)
class Flaw:
    """The first bad line: its number, from 1, and what is wrong with it."""

    line: int
    reason: str


@dataclass(frozen=True, slots=True)
class Verification:
    """`records` good ones, from `first_seq` to `head`; None where there is none. `flaw` None: every line is good."""

    records: int = 0
    first_seq: int | None = None
    head: Link | None = None
    flaw: Flaw | None = None


def verify_lines(lines: Iterable[bytes], after: Link | None = None) -> Verification:
    """Walk lines, each with its newline, until the first bad one. `after`: the record that came before, if known.

    Records that were cut off cleanly at the end cannot be missed from within: compare the head with one noted elsewhere.
    """
    records, first_seq, head = 0, None, after
    for number, line in enumerate(lines, 1):
        try:
            record = _read_next(line, head)
        except BadRecord as error:
            return Verification(records, first_seq, head if records else None, Flaw(number, str(error)))
        records, head = records + 1, record.link
        first_seq = first_seq or record.link.seq
    return Verification(records, first_seq, head if records else None)


def _read_next(line: bytes, before: Link | None) -> Record:
    if not line.endswith(b"\n"):
        raise BadRecord("it has no end: it was torn off or is too long")
    record = read_record(line[:-1])
    check_order(record, before)
    return record


def _parse(line: bytes) -> dict[str, Any]:
    try:
        fields = json.loads(line.decode("ascii"))
    except UnicodeDecodeError:
        raise BadRecord("it holds bytes that are not ASCII") from None
    except (ValueError, RecursionError):
        raise BadRecord("it is not JSON") from None
    if type(fields) is not dict:
        raise BadRecord("it is no JSON object")
    return fields


def _draft_again(fields: Mapping[str, Any]) -> Draft:
    try:
        return make_draft(fields)
    except (ValueError, RecursionError):
        raise BadRecord("it holds numbers or nesting that no record has") from None


def _is_hash(value: object) -> bool:
    return type(value) is str and len(value) == 64 and not value.strip("0123456789abcdef")
