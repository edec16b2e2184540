"""Record support: a record log as the tests run it, and what is on the disk behind it."""

import io
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from appliance.storage.chain import Verification, verify_lines
from appliance.storage.records import RecordLog, RecordStatistics
from appliance.storage.segments import list_closed
from tests.storage.support import HUNG_S, Disk


class Events(list[str]):
    """A log that remembers the names of its events."""

    def __call__(self, event: str, **_fields: object) -> None:
        self.append(event)


class SyncingDisk(Disk):
    """A disk whose syncs are counted, and fail on their own."""

    def __init__(self) -> None:
        super().__init__()
        self.sync_error: int | None = None
        self.syncs = 0

    def sync(self, file: int) -> None:
        if self.sync_error is not None:
            raise OSError(self.sync_error, os.strerror(self.sync_error))
        os.fdatasync(file)
        self.syncs += 1


def id_of(number: int) -> str:
    return f"tool-{number:024x}"


def make_log(path: Path, disk: Disk | None = None, **more: Any) -> RecordLog:
    disk = disk or Disk()
    options = {
        "directory": path.parent,
        "mode": "ndjson",
        "max_bytes": 0,
        "total_max_bytes": 0,
        "retry_interval_s": 0.001,
        "flush_timeout_s": HUNG_S,
        "log": Events(),
        "boot_id": lambda: "this one",
        **more,
    }
    if isinstance(disk, SyncingDisk):
        options["sync"] = disk.sync
    return RecordLog(path, id_field="replay_id", write=disk.write, **options)


@asynccontextmanager
async def running(
    path: Path, disk: Disk | None = None, *, within_s: float = HUNG_S, **more: Any
) -> AsyncIterator[RecordLog]:
    """A log that is written; the end flushes it. `within_s`: what the block may take before it counts as hung."""
    records = make_log(path, disk, **more)
    with trio.fail_after(within_s):
        async with trio.open_nursery() as nursery:
            await nursery.start(records.run)
            yield records
            records.close_nowait()


async def until(condition: Callable[[RecordStatistics], bool], records: RecordLog) -> None:
    """Wait for a thread to have done its work; bounded."""
    with trio.fail_after(HUNG_S):
        while not condition(records.statistics()):  # noqa: ASYNC110 (a thread's work has no event)
            await trio.sleep(0.001)


async def append_many(
    records: RecordLog, numbers: range, *, durable: bool = False, **fields: object
) -> dict[str, bytes]:
    """Append records at once; their lines by id."""
    lines: dict[str, bytes] = {}

    async def append(number: int) -> None:
        lines[id_of(number)] = await records.append(id_of(number), {"n": number, **fields}, durable=durable)

    async with trio.open_nursery() as nursery:
        for number in numbers:
            nursery.start_soon(append, number)
    return lines


async def append_in_turn(records: RecordLog, numbers: range, **fields: object) -> dict[str, bytes]:
    """Append records one after the other; their lines by id."""
    return {id_of(n): await records.append(id_of(n), {"n": n, **fields}, durable=False) for n in numbers}


async def assert_found(records: RecordLog, lines: dict[str, bytes]) -> None:
    for record_id, line in lines.items():
        assert await records.read(record_id) == line


def verify_log(path: Path) -> Verification:
    """Every segment, oldest first, as one chain."""
    files = [segment.path for segment in list_closed(path)] + [path]
    return verify_lines(io.BytesIO(b"".join(file.read_bytes() for file in files if file.exists())))


def assert_whole(path: Path, records: int) -> None:
    found = verify_log(path)
    assert (found.flaw, found.records) == (None, records)
