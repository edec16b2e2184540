"""Files of the evals: reports that are there whole or not at all, the history, and what an interrupted run has reached."""

import contextlib
import hashlib
import json
import os
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from appliance.verification.evals_results import Attempt

LATEST = "latest.json"
HISTORY = "history.jsonl"
PARTIAL_SCHEMA = "appliance_evals_partial.v1"
PARTIAL_MAX_AGE_S = 24 * 3600.0  # older answers say nothing about the gateway of today
SHOWN_HISTORY = 20  # runs before this one, of every case in a report


def write_report(directory: Path, stamp: str, report: Mapping[str, Any]) -> Path:
    """Write `report-<stamp>.json`, never over another one (`-2` and so on), then `latest.json`. Raises OSError."""
    data = (json.dumps(report, indent=2, ensure_ascii=False) + "\n").encode("utf-8", "replace")
    aside = _write_aside(directory, data)
    try:
        path = _link_new(aside, directory, stamp)
    finally:
        aside.unlink()
    write_atomic(directory / LATEST, data)
    return path


def write_atomic(path: Path, data: bytes) -> None:
    """Put `data` under `path`; others see the old content or the new, whole. Raises OSError."""
    _write_aside(path.parent, data).replace(path)


def read_history(directory: Path) -> list[dict[str, Any]]:
    """Every run that was noted, oldest first; lines that cannot be read (cut by a crash) are left out. Raises OSError."""
    return list(_read_lines(directory / HISTORY))


def append_history(directory: Path, line: Mapping[str, Any]) -> None:
    """Note a run, in one write. Raises OSError."""
    _append(directory / HISTORY, line)


class Partial:
    """What a run has reached: `partial-<key>.jsonl`, one line an attempt, removed when its report is written.

    The key is made of all that decides the answers: the same question asked again goes on where it stopped. `now`: Unix
    time in seconds.
    """

    def __init__(self, directory: Path, facts: Mapping[str, Any], now: float) -> None:
        self._facts = facts
        self._now = now
        key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
        self.path = directory / f"partial-{key}.jsonl"

    def load(self) -> tuple[Attempt, ...]:
        """The attempts that were made, none if there was no such run within PARTIAL_MAX_AGE_S. Raises OSError."""
        lines = _read_lines(self.path)
        head = next(lines, {})
        fresh = head.get("schema") == PARTIAL_SCHEMA and 0 <= self._now - head.get("at", 0.0) <= PARTIAL_MAX_AGE_S
        if not fresh:
            return ()
        attempts = []
        for line in lines:
            with contextlib.suppress(TypeError):  # a line of another make: that attempt is made again
                attempts.append(Attempt(**{**line, "reasons": tuple(line["reasons"])}))
        return tuple(attempts)

    def start(self) -> None:
        """Forget what was reached. Raises OSError."""
        self.remove()
        _append(self.path, {"schema": PARTIAL_SCHEMA, "at": self._now, "facts": self._facts})

    def note(self, attempt: Attempt) -> None:
        """Raises OSError."""
        _append(self.path, asdict(attempt))

    def remove(self) -> None:
        """Raises OSError."""
        self.path.unlink(missing_ok=True)


def stamp_of(now: float) -> str:
    """UTC, as it stands in a report's name: `20260131T235959Z`."""
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))


def histories(lines: Sequence[Mapping[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """By case, the last SHOWN_HISTORY runs that had it, oldest first."""
    found: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        cases = line.get("cases")
        for name, standing in (cases if isinstance(cases, dict) else {}).items():
            if isinstance(standing, dict):
                found.setdefault(name, []).append({"at": line.get("at"), **standing})
    return {name: runs[-SHOWN_HISTORY:] for name, runs in found.items()}


def _read_lines(path: Path) -> Iterator[dict[str, Any]]:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return
    for line in data.split(b"\n"):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(value, dict):
            yield value


def _append(path: Path, line: Mapping[str, Any]) -> None:
    """One line, on the disk when this returns; behind one that a crash has cut it begins a new one."""
    text = json.dumps(line, ensure_ascii=True) + "\n"
    file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    with open(file, "ab+", buffering=0) as stream:
        size = os.fstat(file).st_size
        if size and os.pread(file, 1, size - 1) != b"\n":
            text = f"\n{text}"
        stream.write(text.encode())
        os.fsync(file)


def _write_aside(directory: Path, data: bytes) -> Path:
    aside = directory / f".evals.{secrets.token_hex(8)}.tmp"
    try:
        with aside.open("xb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    return aside


def _link_new(aside: Path, directory: Path, stamp: str) -> Path:
    """Give the file a name that nothing has: linking never replaces."""
    number = 1
    while True:
        path = directory / (f"report-{stamp}.json" if number == 1 else f"report-{stamp}-{number}.json")
        try:
            os.link(aside, path)
        except FileExistsError:
            number += 1
            continue
        return path
