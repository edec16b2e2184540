"""`appliance journal`: are the records of tool runs what was written. Imports nothing heavy, changes nothing."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click

from appliance.storage.chain import BadRecord, Link, check_order, verify_lines
from appliance.storage.private import open_to_read
from appliance.storage.record_files import list_files, load_file
from appliance.storage.segments import MAX_LINE_BYTES, list_closed

EXIT_FLAW = 1
EXIT_UNREADABLE = 2


@dataclass(frozen=True, slots=True)
class Finding:
    """What came out: good records, where they begin and end, and the first bad line (of which file), if there is one."""

    records: int
    first_seq: int | None
    head: Link | None
    file: Path | None = None
    line: int | None = None
    reason: str | None = None


@click.group(help="Check the records of tool runs.")
def journal() -> None:
    pass


@journal.command(
    short_help="Find the first record that was changed.",
    help="Walk the chain of FILE, a journal or one of its segments, or a directory of one file for each record."
    " Exit 0: nothing was changed, dropped or moved; 1: the first bad line and why; 2: it cannot be read."
    " Records cut off the end leave no trace within: compare the head with one noted before.",
)
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--all", "all_segments", is_flag=True, help="FILE with every older segment of the same journal.")
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
def verify(*, file: Path, all_segments: bool, as_json: bool) -> int:
    try:
        finding = (
            _verify_directory(file) if file.is_dir() else _verify_files(_segments(file, all_segments=all_segments))
        )
    except OSError as error:
        click.echo(f"appliance: {file}: {error.strerror or error}", err=True)
        return EXIT_UNREADABLE
    if as_json:
        click.echo(json.dumps(_shown(finding), indent=2))
    else:
        _say(finding)
    return EXIT_FLAW if finding.reason is not None else 0


def _segments(file: Path, *, all_segments: bool) -> Sequence[Path]:
    closed = [segment.path for segment in list_closed(file)] if all_segments else []
    return closed if closed and not file.exists() else [*closed, file]


def _verify_files(files: Sequence[Path]) -> Finding:
    records, first_seq, head = 0, None, None
    for file in files:
        with open(open_to_read(file), "rb") as stream:
            found = verify_lines(iter(partial(stream.readline, MAX_LINE_BYTES), b""), after=head)
        records += found.records
        first_seq = first_seq or found.first_seq
        head = found.head or head
        if found.flaw is not None:
            return Finding(records, first_seq, head, file, found.flaw.line, found.flaw.reason)
    return Finding(records, first_seq, head)


def _verify_directory(directory: Path) -> Finding:
    """One file for each record, in the order of `seq`: it has to be known before the chain can be walked."""
    order = []
    for file in list_files(directory):
        path = directory / file.name
        try:
            order.append((load_file(path).link.seq, path))
        except BadRecord as error:
            return Finding(0, None, None, path, 1, str(error))
    if not order:
        raise FileNotFoundError(0, "no file in it is a record's: to check a journal, name the journal itself")
    order.sort()
    records, head = 0, None
    for _, path in order:
        try:
            record = load_file(path)
            check_order(record, head)
        except BadRecord as error:
            return Finding(records, order[0][0], head, path, 1, str(error))
        records, head = records + 1, record.link
    return Finding(records, order[0][0], head)


def _shown(finding: Finding) -> dict[str, Any]:
    return {
        "ok": finding.reason is None,
        "records": finding.records,
        "first_seq": finding.first_seq,
        "last_seq": finding.head.seq if finding.head else None,
        "head": finding.head.hash if finding.head else None,
        "file": str(finding.file) if finding.file else None,
        "line": finding.line,
        "reason": finding.reason,
    }


def _say(finding: Finding) -> None:
    good = "no records"
    if finding.head is not None:
        plural = "" if finding.records == 1 else "s"
        good = (
            f"{finding.records} record{plural}, seq {finding.first_seq} to {finding.head.seq}, head {finding.head.hash}"
        )
    if finding.reason is None:
        click.echo(f"ok: {good}")
        return
    click.echo(f"{finding.file}:{finding.line}: {finding.reason}")
    click.echo(f"before it: {good}")
