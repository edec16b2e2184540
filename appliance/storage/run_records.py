"""Run records: a finished run as one record of a journal, from which its lines come back byte for byte. Pure."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from appliance.protocol.canonical import canonical_json
from appliance.storage.chain import GENESIS, BadRecord, Link, check_order, read_record
from appliance.storage.run_index import RunRow
from appliance.storage.run_payloads import move_in, payloads_in
from appliance.storage.run_sink import ended_row, first_row

Load = Callable[[str], bytes]
"""The payload of this hash. Raises OSError, LookupError."""


@dataclass(frozen=True, slots=True)
class StoredRun:
    """A run: the stored bytes of its events, and the events, long payloads back in their places.

    `flaw`: the number of the first event, from 0, that is not what was written, and why; `events` ends before it.
    """

    lines: tuple[bytes, ...]
    events: tuple[Mapping[str, Any], ...]
    flaw: tuple[int, str] | None = None


def whole_lines(run: StoredRun) -> tuple[bytes, ...]:
    """The lines with long payloads back in their places; those from a flaw on stay as they are stored."""
    sound = len(run.events)
    return tuple(map(_whole_line, run.lines[:sound], run.events)) + run.lines[sound:]


def _whole_line(line: bytes, event: Mapping[str, Any]) -> bytes:
    if b'"blobs":{' not in line:
        return line
    stored = json.loads(line)
    del stored["blobs"]
    return canonical_json({**stored, **event}).encode("ascii")


def read_run(lines: Sequence[bytes], load: Load) -> StoredRun:
    """Every event up to the first that is not what was written."""
    events: list[Mapping[str, Any]] = []
    link: Link | None = GENESIS
    for number, line in enumerate(lines):
        try:
            record = read_record(line)
            check_order(record, link)
            events.append(move_in(record.fields, load))
        except (OSError, LookupError):
            return StoredRun(tuple(lines), tuple(events), (number, "what was too long for its line is missing"))
        except (BadRecord, ValueError, TypeError) as error:
            return StoredRun(tuple(lines), tuple(events), (number, str(error)))
        link = record.link
    return StoredRun(tuple(lines), tuple(events))


def to_record(lines: Sequence[bytes], load: Load) -> dict[str, Any]:
    """The fields of a finished run's record: those of its transcript, its events as they are stored, its payloads."""
    events = [json.loads(line) for line in lines]
    first, last = events[0], events[-1]
    names = ("request_hash", "agent", "tier", "backend", "upstream_model", "owner")
    ended = {"ok": last["ok"], "output_text": last.get("output_text", ""), "error": last.get("error")}
    more = {"forked_from": first["forked_from"]} if "forked_from" in first else {}
    if payloads := {digest: load(digest).decode("ascii") for digest in sorted(payloads_in(lines))}:
        more["payloads"] = payloads
    return {**{name: first[name] for name in names}, **ended, **more, "events": events}


def from_record(line: bytes) -> StoredRun:
    """The run in a journal's record."""
    try:
        fields = read_record(line).fields
        lines = [canonical_json(event).encode("ascii") for event in fields["events"]]
        payloads = {digest: text.encode("ascii") for digest, text in fields.get("payloads", {}).items()}
    except (BadRecord, LookupError, TypeError, ValueError, AttributeError) as error:
        return StoredRun((line,), (), (0, str(error)))
    return read_run(lines, payloads.__getitem__)


def row_of(first: Mapping[str, Any], last: Mapping[str, Any], size: int) -> RunRow:
    """The row of a finished run. Raises LookupError, TypeError for what is none."""
    row = ended_row(first_row(first), last)
    return RunRow(**{**{name: getattr(row, name) for name in RunRow.__slots__}, "bytes": size})


def row_in(line: bytes) -> RunRow:
    """The row of the run in a journal's record, whose hash is not looked at. Raises LookupError, TypeError, ValueError."""
    events = json.loads(line)["events"]
    return row_of(events[0], events[-1], len(line))
