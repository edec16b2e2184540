"""Looking records up: whatever happened to the index, the record is found, and only the record that was asked for."""

import errno
import json
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
import trio.testing

from appliance.storage import record_lookup
from appliance.storage.record_index import read_boot_id
from appliance.storage.record_scan import IdReader, find_stored
from appliance.storage.records import RecordLog
from appliance.storage.segments import closed_path, list_closed
from tests.storage.record_support import (
    append_in_turn,
    append_many,
    assert_found,
    assert_whole,
    id_of,
    make_log,
    running,
    until,
)
from tests.storage.support import HUNG_S


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "invocations.jsonl"


def index_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.index")


async def until_forgotten(records: RecordLog) -> None:
    """Wait until the index has everything, and the memory nothing."""
    with trio.fail_after(HUNG_S):
        while records._lookup._recent:  # noqa: ASYNC110 (a thread's work has no event)
            await trio.sleep(0.001)


async def write_log(path: Path, records: int = 30) -> dict[str, bytes]:
    async with running(path, max_bytes=2000) as log:
        return await append_in_turn(log, range(records))


async def test_index_is_closed_cleanly_and_the_next_start_has_nothing_to_read(path: Path) -> None:
    kept = await write_log(path)
    async with running(path) as records:
        await assert_found(records, kept)
        assert await records.read(id_of(99)) is None
        assert records.statistics().index_builds == 0


def delete(index: Path) -> None:
    index.unlink()


def fill_with_rubbish(index: Path) -> None:
    index.write_bytes(os.urandom(index.stat().st_size))


def cut_off(index: Path) -> None:
    os.truncate(index, index.stat().st_size // 2)


def spoil_every_page_but_the_first(index: Path) -> None:
    size = index.stat().st_size
    with index.open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(size - 4096))


def put_another_database_there(index: Path) -> None:
    index.unlink()
    with sqlite3.connect(index) as database:
        database.execute("CREATE TABLE records (x)")
    database.close()


def drop_the_tables(index: Path) -> None:
    with sqlite3.connect(index) as database:
        database.execute("DROP TABLE mark")
    database.close()


def say_it_was_written_before_a_power_cut(index: Path) -> None:
    with sqlite3.connect(index) as database:
        database.execute("UPDATE mark SET boot = 'an earlier one'")
    database.close()


def let_it_be_of_another_log(index: Path) -> None:
    with sqlite3.connect(index) as database:
        database.execute("UPDATE mark SET digest = 'another'")
    database.close()


def let_it_be_ahead(index: Path) -> None:
    with sqlite3.connect(index) as database:
        database.execute("UPDATE mark SET offset = offset + 1000")
    database.close()


DAMAGE: list[Callable[[Path], None]] = [
    delete,
    fill_with_rubbish,
    cut_off,
    spoil_every_page_but_the_first,
    put_another_database_there,
    drop_the_tables,
    say_it_was_written_before_a_power_cut,
    let_it_be_of_another_log,
    let_it_be_ahead,
]


@pytest.mark.parametrize("damage", DAMAGE)
async def test_index_that_cannot_be_trusted_is_made_anew(path: Path, damage: Callable[[Path], None]) -> None:
    kept = await write_log(path, 300)
    damage(index_of(path))
    async with running(path) as records:
        await assert_found(records, kept)
        assert records.statistics().index_builds >= 1
        kept |= await append_many(records, range(300, 310))
    async with running(path) as records:
        await assert_found(records, kept)
        assert records.statistics().index_builds == 0


async def test_index_that_is_behind_after_a_crash_catches_up(path: Path, tmp_path: Path) -> None:
    kept = await write_log(path, 10)
    old = index_of(path).read_bytes()
    async with running(path, max_bytes=2000) as records:
        kept |= await append_in_turn(records, range(10, 40))
    index_of(path).write_bytes(old)
    async with running(path) as records:
        await assert_found(records, kept)
        assert records.statistics().index_builds == 0


async def test_index_that_says_the_wrong_place_is_found_out_and_made_anew(path: Path) -> None:
    kept = await write_log(path)
    with sqlite3.connect(index_of(path)) as database:
        database.execute("UPDATE records SET offset = 0")
    database.close()
    async with running(path) as records:
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(assert_found, records, kept)
        assert records.statistics().index_builds == 1
        assert records.statistics().damaged == 0


async def test_start_does_not_wait_for_the_index_and_a_look_up_reads_the_log_meanwhile(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = await write_log(path)
    delete(index_of(path))
    monkeypatch.setattr("appliance.storage.record_index.RecordIndex.follow", lambda *_: None)  # it never gets anywhere
    async with running(path, lookup_patience_s=0.001, flush_timeout_s=0.01) as records:
        await assert_found(records, kept)
        assert await records.read(id_of(99)) is None
        kept |= await append_many(records, range(30, 40))
        await assert_found(records, kept)


async def test_link_in_place_of_the_index_is_not_followed(path: Path) -> None:
    path.with_name("precious").write_bytes(b"")
    index_of(path).symlink_to("precious")
    async with running(path) as records:
        kept = await append_many(records, range(5))
        await until(lambda now: now.index_errors > 0, records)
        await assert_found(records, kept)
    assert path.with_name("precious").read_bytes() == b""


@pytest.mark.parametrize("recent_max_bytes", [0, 3000, 10**6])
async def test_index_that_cannot_be_written_costs_time_and_no_record(
    path: Path, monkeypatch: pytest.MonkeyPatch, recent_max_bytes: int
) -> None:
    monkeypatch.setattr(record_lookup, "RECENT_MAX_BYTES", recent_max_bytes)
    index_of(path).mkdir()
    async with running(path, max_bytes=2000) as records:
        kept = await append_many(records, range(40))
        await assert_found(records, kept)
        await until(lambda now: now.index_errors > 0, records)
        await assert_found(records, kept)
        assert await records.read(id_of(99)) is None
        assert not records.statistics().failing


async def test_record_that_had_to_leave_the_memory_before_the_index_had_it_is_found(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(path, lookup_patience_s=0.001, flush_timeout_s=0.01) as records:
        assert await records.read(id_of(99)) is None  # the index has everything there is
        monkeypatch.setattr("appliance.storage.record_index.RecordIndex.follow", lambda *_: None)
        monkeypatch.setattr(record_lookup, "RECENT_MAX_BYTES", 1000)
        kept = await append_many(records, range(30))
        await assert_found(records, kept)


async def test_records_leave_the_memory_when_the_index_has_them(path: Path) -> None:
    async with running(path) as records:
        kept = await append_many(records, range(600), filler="x" * 5000)
        await until_forgotten(records)
        await assert_found(records, kept)


async def test_what_an_argument_calls_an_id_is_not_taken_for_one(path: Path) -> None:
    lie = {"replay_id": id_of(1), "text": '"replay_id":"tool-0"', "deep": [{"replay_id": id_of(2)}]}
    async with running(path) as records:
        kept = await append_in_turn(records, range(1, 4), args=lie, result=lie)
    delete(index_of(path))
    async with running(path) as records:
        await assert_found(records, kept)
        assert records.statistics().index_builds == 1
    for record_id, line in kept.items():
        assert find_stored(path, path.parent, "replay_id", record_id) == line


async def test_removed_records_are_gone_and_leave_the_index(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.storage.record_index._FORGET_ROWS", 7)
    async with running(path, max_bytes=2000, total_max_bytes=9000) as records:
        lines = await append_in_turn(records, range(20))
        await until_forgotten(records)
        lines |= await append_in_turn(records, range(20, 100))
        oldest = list_closed(path)[0].first_seq
        assert records.statistics().removed > 0
    with sqlite3.connect(index_of(path)) as database:
        assert database.execute("SELECT count(*) FROM records WHERE segment < ?", (oldest,)).fetchone() == (0,)
        assert database.execute("SELECT count(*) FROM records").fetchone() == (100 - oldest + 1,)
    database.close()
    async with running(path, max_bytes=2000, total_max_bytes=9000) as records:
        for number in range(100):
            assert await records.read(id_of(number)) == (lines[id_of(number)] if number + 1 >= oldest else None)
        assert records.statistics().index_builds == 0


@pytest.mark.parametrize("with_index", [True, False])
async def test_record_that_was_changed_on_the_disk_is_not_served(path: Path, with_index: bool) -> None:
    kept = await write_log(path)
    closed = closed_path(path, 1)
    text = closed.read_bytes()
    closed.write_bytes(text.replace(b'"n":1,', b'"n":7,'))
    if not with_index:
        delete(index_of(path))
    async with running(path) as records:
        assert await records.read(id_of(1)) is None
        assert records.statistics().damaged == 1
        del kept[id_of(1)]
        await assert_found(records, kept)


async def test_segment_that_cannot_be_read_raises_and_the_rest_is_found(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = await write_log(path)
    async with running(path) as records:
        await assert_found(records, kept)

        def fail(*_: object) -> bytes:
            raise OSError(errno.EIO, "input/output error")

        with monkeypatch.context() as patch:
            patch.setattr("appliance.storage.record_scan.iterate_log", fail)
            patch.setattr(record_lookup, "iterate_log", fail)
            patch.setattr(os, "pread", fail)
            with pytest.raises(OSError, match="input/output"):
                await records.read(id_of(1))
        await assert_found(records, kept)


async def test_id_that_is_none_finds_nothing(path: Path) -> None:
    async with running(path, mode="both") as records:
        kept = await append_many(records, range(3))
        for record_id in ("", "tool-", "../../etc/passwd", "tool-\0", "é", id_of(1).upper(), id_of(1) + '"', "%"):
            assert await records.read(record_id) is None
        await assert_found(records, kept)


async def test_moved_away_segment_is_none_and_the_rest_is_found(path: Path) -> None:
    kept = await write_log(path)
    closed = list_closed(path)[1]
    gone = {json.loads(line)["replay_id"] for line in closed.path.read_bytes().splitlines()}
    closed.path.rename(path.with_name("elsewhere"))
    async with running(path) as records:
        for record_id, line in kept.items():
            assert await records.read(record_id) == (None if record_id in gone else line)
        assert records.statistics().index_builds == 0


async def test_log_is_read_while_it_is_written(path: Path) -> None:
    async with running(path, max_bytes=20_000) as records:
        kept: dict[str, bytes] = {}

        async def write() -> None:
            for start in range(0, 2000, 50):
                kept.update(await append_many(records, range(start, start + 50)))

        async def read() -> None:
            while len(kept) < 2000:
                await trio.lowlevel.checkpoint()
                for record_id in list(kept)[:: max(1, len(kept) // 10)]:
                    assert await records.read(record_id) == kept[record_id]

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            nursery.start_soon(read)
        assert records.statistics().index_builds == 1
    assert_whole(path, 2000)


def test_reader_of_ids_knows_its_own_field_alone() -> None:
    reader = IdReader("replay_id")
    assert reader.read_id(b'{"args":{},"replay_id":"tool-1","seq":1}\n') == "tool-1"
    assert reader.read_id(b'{"args":{"replay_id":"tool-2"},"replay_id":"tool-1"}\n') == "tool-1"
    assert reader.read_id(b'{"args":"\\"replay_id\\":\\"tool-2\\"","replay_id":"tool-1"}\n') == "tool-1"
    assert reader.read_id(b'{"args":1}\n') is None
    assert reader.read_id(b'{"replay_id":"tool-1","replay_id":"tool-2"\n') is None
    assert reader.read_id(b'[{"replay_id":"tool-1"},{"replay_id":"tool-2"}]\n') is None


def test_run_of_the_machine_has_a_name() -> None:
    assert len(read_boot_id()) == 36


async def test_nothing_is_found_before_the_log_is_open(path: Path) -> None:
    await write_log(path)
    records = make_log(path)
    assert await records.read(id_of(1)) is None
