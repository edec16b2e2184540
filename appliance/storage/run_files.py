"""Run files: one file of chained events for each run, and its long payloads beside it. Blocking; callers use threads.

`<dir>/<run id>.jsonl` holds the events, a line each; `<dir>/<run id>.payloads/<sha256>` what was too long for its line.
"""

import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from appliance.protocol.ids import is_id
from appliance.storage.atomic import Write, ensure_private_dir, write_all, write_atomic
from appliance.storage.chain import GENESIS, BadRecord, Link, check_order, read_record
from appliance.storage.private import open_to_append, open_to_read, sync_directory

SUFFIX = ".jsonl"
PAYLOADS = ".payloads"
MAX_PAYLOAD_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Found:
    """What a file holds: its whole lines without newlines, the last link, and how many bytes those lines take."""

    lines: tuple[bytes, ...]
    link: Link
    size: int
    torn: bytes


class RunFiles:
    """The directory of runs."""

    def __init__(self, directory: Path, write: Write = os.write) -> None:
        self.directory = directory
        self._write = write

    def prepare(self) -> None:
        """Raises OSError, UnsafePath."""
        ensure_private_dir(self.directory)

    def run_ids(self) -> Iterator[str]:
        """Every run that has a file, in no order."""
        for entry in os.scandir(self.directory):
            stem, suffix = os.path.splitext(entry.name)
            if suffix == SUFFIX and is_id("run", stem):
                yield stem

    def create(self, run_id: str) -> int:
        """Open the file of a new run; nothing is left where that fails. Raises OSError."""
        file = open_to_append(self._path(run_id))
        try:
            sync_directory(self.directory)
        except BaseException:
            os.close(file)
            self.remove(run_id)
            raise
        return file

    def append(self, file: int, line: bytes, size: int, *, durable: bool) -> None:
        """Add one line to a file of `size` bytes; all of it or nothing. Raises OSError."""
        try:
            write_all(file, line + b"\n", self._write)
            if durable:
                os.fdatasync(file)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(file, size)
            raise

    def save_payloads(self, run_id: str, payloads: Mapping[str, bytes], *, durable: bool) -> None:
        """Keep what an event was relieved of, before the event itself. Raises OSError."""
        if payloads:
            directory = self._payloads(run_id)
            if not directory.exists():
                ensure_private_dir(directory)
                if durable:
                    sync_directory(self.directory)
            for digest, data in payloads.items():
                if not (directory / digest).exists():
                    write_atomic(directory / digest, data, durable=durable, write=self._write)

    def load_payload(self, run_id: str, digest: str) -> bytes:
        """Raises OSError, ValueError."""
        if len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
            raise ValueError("a payload is named by 64 hex digits")
        return _read(self._payloads(run_id) / digest)

    def read(self, run_id: str) -> Found | None:
        """The lines of a run, None where it has no file. Whether they are whole is not checked. Raises OSError."""
        try:
            data = _read(self._path(run_id))
        except FileNotFoundError:
            return None
        end = data.rfind(b"\n") + 1
        return Found(tuple(data[:end].split(b"\n")[:-1]), GENESIS, end, data[end:])

    def reopen(self, run_id: str) -> tuple[int, Found] | None:
        """Open a run that was cut off, after its last good line; what stands behind that is set aside as `.torn`.

        None: it holds no good line, and is left as it is. Raises OSError.
        """
        found = self.read(run_id)
        good = _good_part(found) if found is not None else None
        if found is None or good is None or not good.lines:
            return None
        file = open_to_append(self._path(run_id))
        try:
            rest = b"\n".join(found.lines[len(good.lines) :]) + found.torn
            if rest:
                write_atomic(self._path(run_id).with_suffix(".torn"), rest, durable=True)
                os.ftruncate(file, good.size)
        except BaseException:
            os.close(file)
            raise
        return file, good

    def payloads_size(self, run_id: str, digests: Iterable[str]) -> int:
        """Bytes of these payloads; one that is not there has none."""
        total = 0
        for digest in digests:
            with contextlib.suppress(FileNotFoundError):
                total += (self._payloads(run_id) / digest).stat().st_size
        return total

    def remove_all(self, run_ids: Iterable[str]) -> None:
        for run_id in run_ids:
            self.remove(run_id)

    def remove(self, run_id: str) -> None:
        """Remove a run and all that it kept. Raises OSError."""
        self._path(run_id).unlink(missing_ok=True)
        self._path(run_id).with_suffix(".torn").unlink(missing_ok=True)
        shutil.rmtree(self._payloads(run_id), ignore_errors=True)

    def _path(self, run_id: str) -> Path:
        return self.directory / f"{run_id}{SUFFIX}"

    def _payloads(self, run_id: str) -> Path:
        return self.directory / f"{run_id}{PAYLOADS}"


def _good_part(found: Found) -> Found:
    link, good, size = GENESIS, [], 0
    for line in found.lines:
        try:
            record = read_record(line)
            check_order(record, link)
        except BadRecord:
            break
        link, size = record.link, size + len(line) + 1
        good.append(line)
    return Found(tuple(good), link, size, b"")


def _read(path: Path) -> bytes:
    file = open_to_read(path)
    with open(file, "rb") as stream:
        return stream.read(MAX_PAYLOAD_BYTES)
