"""The record log: what it acknowledged, it answers, byte for byte."""

import errno
import json
import os
import stat
import threading
from pathlib import Path

import pytest
import trio
import trio.testing

from appliance.protocol.errors import ShuttingDown, StorageFull
from appliance.storage.records import QUEUE_RECORDS
from tests.storage.record_support import (
    Events,
    SyncingDisk,
    append_in_turn,
    append_many,
    assert_found,
    assert_whole,
    id_of,
    make_log,
    running,
    until,
)
from tests.storage.support import HUNG_S, Disk, names_in


@pytest.mark.parametrize("durable", [True, False])
async def test_acknowledged_records_are_in_the_file_and_read_back_byte_for_byte(tmp_path: Path, durable: bool) -> None:
    path = tmp_path / "tools" / "invocations.jsonl"
    async with running(path) as records:
        lines = await append_many(records, range(300), durable=durable)
        stored = path.read_bytes().splitlines()
        assert sorted(stored) == sorted(lines.values())
        await assert_found(records, lines)
        assert await records.read(id_of(1000)) is None
    assert_whole(path, 300)
    assert {json.loads(line)["replay_id"] for line in stored} == set(lines)


async def test_log_goes_on_where_it_ended_and_what_earlier_processes_wrote_is_found(tmp_path: Path) -> None:
    path, kept = tmp_path / "invocations.jsonl", {}
    for start in (0, 10, 20):
        async with running(path) as records:
            kept |= await append_many(records, range(start, start + 10))
            await assert_found(records, kept)
    assert_whole(path, 30)


async def test_files_and_their_directory_are_private(tmp_path: Path) -> None:
    path = tmp_path / "tools" / "invocations.jsonl"
    async with running(path, mode="both", max_bytes=200) as records:
        await append_in_turn(records, range(3))
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert {stat.S_IMODE(entry.stat().st_mode) for entry in path.parent.iterdir()} == {0o600}


async def test_records_that_come_together_are_written_and_synced_together(tmp_path: Path) -> None:
    disk = SyncingDisk()
    async with running(tmp_path / "invocations.jsonl", disk) as records:
        await append_many(records, range(200), durable=True)
    assert disk.syncs <= 4


async def test_records_that_nobody_waits_for_are_synced_soon_and_once(tmp_path: Path) -> None:
    disk = SyncingDisk()
    async with running(tmp_path / "invocations.jsonl", disk, sync_interval_s=0.01) as records:
        await append_in_turn(records, range(5))
        await until(lambda now: now.syncs > 0, records)
        syncs = disk.syncs
        await trio.sleep(0.05)
        assert disk.syncs == syncs


async def test_many_unsynced_records_do_not_wait_for_the_interval(tmp_path: Path) -> None:
    disk = SyncingDisk()
    async with running(tmp_path / "invocations.jsonl", disk, sync_interval_s=1000) as records:
        await append_many(records, range(300))
        await until(lambda now: now.syncs > 0, records)


async def test_what_is_not_synced_yet_is_synced_at_the_end(tmp_path: Path) -> None:
    disk = SyncingDisk()
    async with running(tmp_path / "invocations.jsonl", disk, sync_interval_s=1000) as records:
        await append_in_turn(records, range(5))
        assert disk.syncs == 0
    assert disk.syncs == 1


async def test_fields_that_are_no_json_or_the_chains_own_are_refused(tmp_path: Path) -> None:
    records = make_log(tmp_path / "invocations.jsonl")
    with pytest.raises(ValueError, match="JSON"):
        await records.append(id_of(1), {"x": float("nan")}, durable=False)
    with pytest.raises(TypeError):
        await records.append(id_of(1), {"x": object()}, durable=False)
    with pytest.raises(ValueError, match="own"):
        await records.append(id_of(1), {"prev": ""}, durable=False)
    for record_id in ("../tool", "tool-1", id_of(1).upper(), id_of(1) + "0", ""):
        with pytest.raises(ValueError, match="id"):
            await records.append(record_id, {}, durable=False)
    assert records.statistics().queued == 0


async def test_record_that_no_reader_would_take_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.storage.records.MAX_RECORD_BYTES", 100)
    async with running(tmp_path / "invocations.jsonl") as records:
        with pytest.raises(StorageFull, match="100 bytes"):
            await records.append(id_of(1), {"x": "y" * 100}, durable=False)
        records.check_writable()


@pytest.mark.parametrize("mode", ["ndjson", "per_invocation", "both"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO])
async def test_failing_disk_refuses_and_the_chain_goes_on_when_it_recovers(
    tmp_path: Path, number: int, mode: str
) -> None:
    path, disk, events = tmp_path / "invocations.jsonl", Disk(), Events()
    async with running(path, disk, log=events, mode=mode, retry_interval_s=0.01) as records:
        kept = await append_many(records, range(3))
        records.check_writable()
        disk.error = number
        for record in (3, 4):
            with pytest.raises(StorageFull):
                await records.append(id_of(record), {}, durable=False)
            with pytest.raises(StorageFull):
                records.check_writable()
        assert records.statistics().failing
        disk.free()
        await until(lambda now: not now.failing, records)
        records.check_writable()
        kept |= await append_many(records, range(5, 7))
        await assert_found(records, kept)
        assert await records.read(id_of(3)) is None
        assert records.statistics().refused == 2
    if mode != "per_invocation":
        assert_whole(path, 5)
    assert events == ["records_failed", "records_recovered"]
    assert not [name for name in names_in(tmp_path) if name.endswith(".tmp")]


async def test_disk_with_room_for_a_probe_but_not_for_the_batch_stays_failing(tmp_path: Path) -> None:
    room = 100_000

    class SmallDisk(Disk):
        def write(self, file: int, data: memoryview) -> int:
            if len(data) > room:
                raise OSError(errno.ENOSPC, "full")
            return super().write(file, data)

    async with running(tmp_path / "invocations.jsonl", SmallDisk()) as records:
        with pytest.raises(StorageFull):
            await records.append(id_of(1), {"x": "y" * 150_000}, durable=False)
        await until(lambda now: now.errors > 3, records)
        assert records.statistics().failing
        room = 200_000
        await until(lambda now: not now.failing, records)


@pytest.mark.parametrize("mode", ["ndjson", "per_invocation", "both"])
async def test_sync_that_fails_refuses_the_whole_batch(tmp_path: Path, mode: str) -> None:
    path, disk = tmp_path / "invocations.jsonl", SyncingDisk()
    async with running(path, disk, mode=mode, sync_interval_s=1000) as records:
        kept = await append_many(records, range(2))
        disk.sync_error = errno.EIO
        with pytest.raises(StorageFull):
            await records.append(id_of(3), {}, durable=True)
        assert await records.read(id_of(3)) is None
        disk.sync_error = None
        kept |= await append_many(records, range(4, 5))
        await assert_found(records, kept)
    if mode != "per_invocation":
        assert_whole(path, 3)


async def test_batch_that_cannot_even_be_taken_back_is_taken_back_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, disk = tmp_path / "invocations.jsonl", Disk()

    def refuse(_file: int, _size: int) -> None:
        raise OSError(errno.EIO, "no")

    async with running(path, disk, retry_interval_s=1000) as records:
        await append_in_turn(records, range(1))
        with monkeypatch.context() as patch:
            patch.setattr(os, "ftruncate", refuse)
            disk.fill()
            with pytest.raises(StorageFull):
                await records.append(id_of(1), {}, durable=False)
            disk.free()
            assert not path.read_bytes().endswith(b"\n")
            with pytest.raises(StorageFull):
                await records.append(id_of(2), {}, durable=False)
        await append_in_turn(records, range(3, 4))
    assert_whole(path, 2)


async def test_log_that_cannot_be_opened_at_the_start_is_failing_and_recovers(tmp_path: Path) -> None:
    path = tmp_path / "invocations.jsonl"
    path.mkdir()
    async with running(path) as records:
        with pytest.raises(StorageFull):
            records.check_writable()
        with pytest.raises(StorageFull):
            await records.append(id_of(1), {}, durable=False)
        path.rmdir()
        await until(lambda now: not now.failing, records)
        await append_many(records, range(2, 4))
    assert_whole(path, 2)


async def test_second_process_can_read_and_writes_when_the_first_has_ended(tmp_path: Path) -> None:
    path = tmp_path / "invocations.jsonl"
    async with running(path) as first:
        kept = await append_many(first, range(3))
        second = make_log(path, lookup_patience_s=0.01)
        async with trio.open_nursery() as nursery:
            await nursery.start(second.run)
            with pytest.raises(StorageFull):
                await second.append(id_of(5), {}, durable=False)
            await assert_found(second, kept)
            second.close_nowait()
    async with running(path) as third:
        await append_many(third, range(6, 7))
    assert_whole(path, 4)


async def test_link_in_place_of_the_log_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"precious\n")
    (tmp_path / "invocations.jsonl").symlink_to(tmp_path / "target")
    async with running(tmp_path / "invocations.jsonl") as records:
        with pytest.raises(StorageFull):
            await records.append(id_of(1), {}, durable=False)
    assert (tmp_path / "target").read_bytes() == b"precious\n"


async def test_waiter_that_is_cancelled_does_not_tear_the_batch_and_its_record_is_written(tmp_path: Path) -> None:
    entered, gate = threading.Event(), threading.Event()

    class SlowDisk(Disk):
        def write(self, file: int, data: memoryview) -> int:
            entered.set()
            gate.wait(10)
            return super().write(file, data)

    path = tmp_path / "invocations.jsonl"
    async with running(path, SlowDisk()) as records:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(append_many, records, range(3))
            await trio.to_thread.run_sync(entered.wait, 10)
            nursery.cancel_scope.cancel()
        gate.set()
        await append_many(records, range(3, 4))
        assert await records.read(id_of(1)) is not None
    assert_whole(path, 4)


async def test_who_finds_the_queue_full_waits_for_a_place(tmp_path: Path) -> None:
    path = tmp_path / "invocations.jsonl"
    records = make_log(path)
    number = QUEUE_RECORDS + 50
    with trio.fail_after(HUNG_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(append_many, records, range(number))
            await trio.testing.wait_all_tasks_blocked()
            assert records.statistics().queued == QUEUE_RECORDS
            await nursery.start(records.run)
            await until(lambda now: now.written == number, records)
            records.close_nowait()
    assert_whole(path, number)


async def test_who_comes_after_the_end_is_told(tmp_path: Path) -> None:
    async with running(tmp_path / "invocations.jsonl") as records:
        pass
    with pytest.raises(ShuttingDown):
        await records.append(id_of(1), {}, durable=False)
    assert repr(records) == "<RecordLog well, 0 queued, 0 written, 0 refused>"


async def test_disk_that_hangs_does_not_hold_up_the_end_and_who_waits_is_refused(tmp_path: Path) -> None:
    gate = threading.Event()

    class HangingDisk(Disk):
        def write(self, file: int, data: memoryview) -> int:
            gate.wait(10)
            return super().write(file, data)

    refused = 0

    async def append(number: int) -> None:
        nonlocal refused
        with pytest.raises(StorageFull):
            await records.append(id_of(number), {}, durable=False)
        refused += 1

    records = make_log(tmp_path / "invocations.jsonl", HangingDisk(), flush_timeout_s=0.01)
    try:
        with trio.fail_after(HUNG_S):
            async with trio.open_nursery() as nursery:
                await nursery.start(records.run)
                for number in range(3):
                    nursery.start_soon(append, number)
                await trio.testing.wait_all_tasks_blocked(0.01)
                records.close_nowait()
    finally:
        gate.set()
    assert refused == records.statistics().refused == 3


async def test_everything_queued_at_the_end_is_flushed(tmp_path: Path) -> None:
    path = tmp_path / "invocations.jsonl"
    records = make_log(path)
    with trio.fail_after(HUNG_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(append_many, records, range(600))
            await trio.testing.wait_all_tasks_blocked()
            records.close_nowait()
            await records.run()
    assert_whole(path, 600)


async def test_descriptors_are_closed_at_the_end_and_when_cancelled(tmp_path: Path) -> None:
    counts = []
    for number in range(4):
        records = make_log(tmp_path / "invocations.jsonl", mode="both")
        async with trio.open_nursery() as nursery:
            await nursery.start(records.run)
            kept = await append_many(records, range(number, number + 1))
            await assert_found(records, kept)
            nursery.cancel_scope.cancel()
        async with running(tmp_path / "invocations.jsonl", mode="both") as records:
            await assert_found(records, kept)
        counts.append(len(os.listdir("/proc/self/fd")))
    assert counts[-1] == counts[0]
