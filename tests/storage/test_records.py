"""The record log: what it acknowledged, it answers, byte for byte."""

import errno
import io
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from appliance.protocol.errors import StorageFull
from appliance.storage.chain import verify_lines
from appliance.storage.records import RecordLog, RecordStatistics
from tests.storage.support import Disk
from tests.storage.test_journal import Events


def id_of(number: int) -> str:
    return f"tool-{number:024x}"


def make_log(path: Path, disk: Disk | None = None, **more: Any) -> RecordLog:
    options = {
        "max_bytes": 0,
        "total_max_bytes": 0,
        "retry_interval_s": 0.001,
        "log": Events(),
        "mode": "ndjson",
        **more,
    }
    disk = disk or Disk()
    directory = path.with_name("files")
    return RecordLog(path, directory=directory, id_field="replay_id", write=disk.write, **options)


@asynccontextmanager
async def running(path: Path, disk: Disk | None = None, **more: Any) -> AsyncIterator[RecordLog]:
    records = make_log(path, disk, **more)
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            await nursery.start(records.run)
            yield records
            records.close_nowait()


async def until(condition: Callable[[RecordStatistics], bool], records: RecordLog) -> None:
    """Wait for a thread to have done its work; bounded."""
    with trio.fail_after(10):
        while not condition(records.statistics()):  # noqa: ASYNC110 (a thread's work has no event)
            await trio.sleep(0.001)


async def append_many(records: RecordLog, numbers: range, *, durable: bool = False) -> dict[str, bytes]:
    lines: dict[str, bytes] = {}

    async def append(number: int) -> None:
        lines[id_of(number)] = await records.append(id_of(number), {"n": number}, durable=durable)

    async with trio.open_nursery() as nursery:
        for number in numbers:
            nursery.start_soon(append, number)
    return lines


@pytest.mark.parametrize("durable", [True, False])
async def test_acknowledged_records_are_in_the_file_and_read_back_byte_for_byte(tmp_path: Path, durable: bool) -> None:
    path = tmp_path / "tools" / "invocations.jsonl"
    async with running(path) as records:
        lines = await append_many(records, range(300), durable=durable)
        stored = path.read_bytes().splitlines()
        assert sorted(stored) == sorted(lines.values())
        for record_id, line in lines.items():
            assert await records.read(record_id) == line
        assert await records.read(id_of(1000)) is None
    assert verify_lines(io.BytesIO(path.read_bytes())).records == 300
    assert json.loads(stored[0])["replay_id"] in lines


async def test_log_goes_on_where_it_ended(tmp_path: Path) -> None:
    path = tmp_path / "invocations.jsonl"
    kept: dict[str, bytes] = {}
    for start in (0, 10, 20):
        async with running(path) as records:
            kept |= await append_many(records, range(start, start + 10))
    async with running(path) as records:
        for record_id, line in kept.items():
            assert await records.read(record_id) == line
    assert verify_lines(io.BytesIO(path.read_bytes())).records == 30


async def test_full_disk_refuses_with_507_and_the_chain_goes_on_when_it_recovers(tmp_path: Path) -> None:
    path, disk, events = tmp_path / "invocations.jsonl", Disk(), Events()
    async with running(path, disk, log=events) as records:
        await append_many(records, range(3))
        disk.error = errno.ENOSPC
        records.check_writable()
        with pytest.raises(StorageFull):
            await records.append(id_of(3), {}, durable=False)
        with pytest.raises(StorageFull):
            records.check_writable()
        disk.free()
        await until(lambda now: not now.failing, records)
        records.check_writable()
        await append_many(records, range(4, 6))
        assert await records.read(id_of(3)) is None
    assert verify_lines(io.BytesIO(path.read_bytes())).records == 5
    assert events == ["records_failed", "records_recovered"]
