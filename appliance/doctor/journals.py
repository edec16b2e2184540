"""Journals: the ends of what was written, read and checked: quick, and enough to see a torn or changed tail."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

from appliance.config.loading import Configuration
from appliance.doctor.patient import Patient, Result
from appliance.storage.chain import Verification, verify_lines
from appliance.storage.private import open_to_read

TAIL_BYTES = 1_000_000  # a few thousand records: milliseconds


def check_journals(_patient: Patient, configuration: Configuration) -> Iterator[Result]:
    settings = configuration.settings
    if settings.request_log_enabled:
        yield _look("journal.requests", settings.request_log_path, chained=False)
    if settings.tools_log_mode != "per_invocation":
        yield _look("journal.tools", settings.tools_log_path, chained=True)
    if settings.agent_runs_log_mode != "per_run":
        yield _look("journal.agents", settings.agent_runs_log_path, chained=True)
    if settings.agent_runs_log_mode != "ndjson":
        yield _look_at_newest("journal.agents_newest_run", settings.agent_runs_log_dir)


def read_tail(path: Path, size: int = TAIL_BYTES) -> tuple[list[bytes], bytes]:
    """The last whole lines of a file, newlines included, and what lies behind them. Raises OSError."""
    with open(open_to_read(path), "rb") as stream:
        end = os.fstat(stream.fileno()).st_size
        start = max(0, end - size)
        data = os.pread(stream.fileno(), end - start, start)
    lines = data.splitlines(keepends=True)
    if start:
        lines = lines[1:]  # it began before
    torn = lines.pop() if lines and not lines[-1].endswith(b"\n") else b""
    return lines, torn


def _look(place: str, path: Path, *, chained: bool) -> Result:
    try:
        lines, torn = read_tail(path)
    except FileNotFoundError:
        return _nothing(place)
    except OSError as error:
        return _closed(place, path, error)
    flaw = _find_flaw(lines, chained=chained)
    if flaw is not None:
        remedy = f"appliance journal verify {path}" if chained else f"look at {path}: who else writes to it?"
        return Result(place, "failure", f"{path}: {flaw}", remedy)
    seen = f"{path}: the last {len(lines)} records are good"
    if torn:
        remedy = "nothing, if the gateway runs or starts again: it is set aside or completed then"
        return Result(place, "warning", f"{seen}; a last one was cut off", remedy)
    return Result(place, "ok", seen)


def _find_flaw(lines: list[bytes], *, chained: bool) -> str | None:
    if chained:
        found: Verification = verify_lines(lines)
        return f"{len(lines) - found.flaw.line + 1} lines before its end: {found.flaw.reason}" if found.flaw else None
    for number, line in enumerate(lines):
        try:
            good = isinstance(json.loads(line), dict)
        except (ValueError, RecursionError):
            good = False
        if not good:
            return f"{len(lines) - number} lines before its end: no JSON object"
    return None


def _look_at_newest(place: str, directory: Path) -> Result:
    try:
        with os.scandir(directory) as entries:
            found = [(entry.stat().st_mtime, entry.path) for entry in entries if entry.name.endswith(".jsonl")]
    except FileNotFoundError:  # also for a run that was removed meanwhile: the next look sees the others
        found = []
    except OSError as error:
        return _closed(place, directory, error)
    return _look(place, Path(max(found)[1]), chained=True) if found else _nothing(place)


def _closed(place: str, path: Path, error: OSError) -> Result:
    return Result(place, "warning", f"{path}: {error.strerror or error}", "ask as root, or as the gateway's user")


def _nothing(place: str) -> Result:
    return Result(place, "ok", "nothing was written yet")
