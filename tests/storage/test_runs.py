"""Runs: events are safe as they happen, a cut-off run gets its end, and the index can always be read off the files."""

import errno
import os
import sqlite3
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from appliance.protocol.errors import StorageFull
from appliance.storage.atomic import Write
from appliance.storage.records import RecordLog
from appliance.storage.run_payloads import INLINE_BYTES
from appliance.storage.runs import RunStore

LONG = "x" * (INLINE_BYTES + 1)


def run_id(number: int) -> str:
    return f"run-{number:024x}"


def started(number: int = 1, *, ts: float = 100.0, owner: str = "o", agent: str = "default") -> dict[str, Any]:
    names = {
        "request_hash": "h",
        "tier": 0,
        "backend": "b",
        "upstream_model": "m",
        "spec": {},
        "messages": [],
        "tools": [],
    }
    place = {"type": "run_started", "turn": None, "step": None, "ts": ts}
    return {**names, **place, "run_id": run_id(number), "owner": owner, "agent": agent, "versions": {}}


def step(number: int, **fields: Any) -> dict[str, Any]:
    return {"type": "plan", "turn": 0, "step": number, "ts": 101.0, "text": "t", **fields}


def ended(*, ok: bool = True, steps: int = 0, ts: float = 105.0) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "type": "run_completed" if ok else "run_failed",
        "turn": 0,
        "step": None,
        "steps": steps,
        "ok": ok,
    }
    return {**fields, "ts": ts, **({"output_text": "done"} if ok else {"error": "cancelled"})}


@asynccontextmanager
async def open_store(
    directory: Path,
    *,
    journal: RecordLog | None = None,
    keep_files: bool = True,
    total: int = 0,
    write: Write = os.write,
) -> AsyncIterator[RunStore]:
    store = RunStore(
        directory,
        total_max_bytes=total,
        durable=False,
        journal=journal,
        journal_path=directory / "runs.jsonl",
        keep_files=keep_files,
        files=trio.CapacityLimiter(2),
        index_limiter=trio.CapacityLimiter(1),
        log=lambda *_args, **_fields: None,
        write=write,
        now=lambda: 200.0,
    )
    async with store.opened():
        yield store


@asynccontextmanager
async def open_journal(directory: Path, write: Write = os.write) -> AsyncIterator[RecordLog]:
    journal = RecordLog(
        directory / "runs.jsonl",
        directory=directory,
        mode="ndjson",
        id_field="run_id",
        max_bytes=0,
        total_max_bytes=0,
        log=lambda *_args, **_fields: None,
        write=write,
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(journal.run)
        yield journal
        journal.close_nowait()


async def put(store: RunStore, number: int, *events: Mapping[str, Any]) -> list[bytes]:
    with store.begin(run_id(number)) as sink:
        for event in events:
            await sink.append(event)
        return sink.lines


async def test_a_run_comes_back_as_it_was_stored(tmp_path: Path) -> None:
    async with open_store(tmp_path / "agent") as store:
        lines = await put(store, 1, started(), step(0), ended(steps=1))
        found = await store.load(run_id(1))
    assert found is not None
    assert (found.flaw, list(found.lines)) == (None, lines)
    assert [event["type"] for event in found.events] == ["run_started", "plan", "run_completed"]
    assert (tmp_path / "agent").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "agent" / f"{run_id(1)}.jsonl").stat().st_mode & 0o777 == 0o600


async def test_long_payloads_lie_beside_the_line_and_come_back_in_their_places(tmp_path: Path) -> None:
    async with open_store(tmp_path / "agent") as store:
        lines = await put(store, 1, started(), step(0, request=LONG, response="short", result={"a": LONG}), ended())
        found = await store.load(run_id(1))
        assert found is not None
        assert found.events[1]["request"] == LONG
        assert found.events[1]["result"] == {"a": LONG}
        assert len(lines[1]) < 2_000
        for payload in (tmp_path / "agent" / f"{run_id(1)}.payloads").iterdir():
            payload.write_bytes(payload.read_bytes().replace(b"x", b"y", 1))
        broken = await store.load(run_id(1))
    assert broken is not None
    assert broken.flaw is not None
    assert (broken.flaw[0], len(broken.events)) == (1, 1)


@pytest.mark.parametrize("line", [0, 1, 2])
async def test_a_flipped_byte_is_found_and_its_event_named(tmp_path: Path, line: int) -> None:
    async with open_store(tmp_path / "agent") as store:
        await put(store, 1, started(), step(0), ended(steps=1))
        path = tmp_path / "agent" / f"{run_id(1)}.jsonl"
        lines = path.read_bytes().splitlines(keepends=True)
        lines[line] = lines[line].replace(b'"turn"', b'"turm"')
        path.write_bytes(b"".join(lines))
        found = await store.load(run_id(1))
    assert found is not None
    assert found.flaw is not None
    assert found.flaw[0] == line


@pytest.mark.parametrize("torn", [b"", b'{"half', b"not json\n"])
async def test_a_run_that_was_cut_off_ends_interrupted(tmp_path: Path, torn: bytes) -> None:
    async with open_store(tmp_path / "agent") as store:
        lines = await put(store, 1, started(), step(0))
    path = tmp_path / "agent" / f"{run_id(1)}.jsonl"
    path.write_bytes(path.read_bytes() + torn)
    async with open_store(tmp_path / "agent") as store:
        found = await store.load(run_id(1))
        assert store.statistics().interrupted == 1
        [row] = await store.newest(limit=5, owner="o")
    assert found is not None
    assert found.flaw is None
    assert list(found.lines[:2]) == lines
    assert (found.events[-1]["error"], found.events[-1]["steps"]) == ("interrupted", 1)
    assert (row.ok, row.error, row.steps) == (False, "interrupted", 1)
    async with open_store(tmp_path / "agent") as again:
        assert again.statistics().interrupted == 0
    assert path.with_suffix(".torn").exists() == bool(torn)


async def test_a_run_cut_off_before_its_first_event_never_was(tmp_path: Path) -> None:
    async with open_store(tmp_path / "agent") as store:
        store.begin(run_id(1)).__exit__()
    async with open_store(tmp_path / "agent") as store:
        assert await store.load(run_id(1)) is None
        assert await store.newest(limit=5, owner=None) == []


async def test_runs_are_listed_newest_first_by_owner_agent_and_outcome_in_pages(tmp_path: Path) -> None:
    async with open_store(tmp_path / "agent") as store:
        for number in range(1, 6):
            agent = "coder" if number == 3 else "default"
            await put(store, number, started(number, ts=100.0 + number // 2, agent=agent), ended(ok=number != 2))
        await put(store, 9, started(9, owner="other"), ended())
        rows = await store.newest(limit=3, owner="o")
        before = (rows[-1].started, rows[-1].run_id)
        rest = await store.newest(limit=3, owner="o", before=before)
        failed = await store.newest(limit=9, owner="o", ok=False)
        coders = await store.newest(limit=9, owner="o", agent="coder")
        everybody = await store.newest(limit=9, owner=None)
    assert [row.run_id for row in (*rows, *rest)] == [run_id(number) for number in (5, 4, 3, 2, 1)]
    assert [row.run_id for row in failed] == [run_id(2)]
    assert [row.run_id for row in coders] == [run_id(3)]
    assert len(everybody) == 6


@pytest.mark.parametrize("damage", ["gone", "garbage", "behind"])
async def test_the_index_is_a_cache(tmp_path: Path, damage: str) -> None:
    async with open_store(tmp_path / "agent") as store:
        await put(store, 1, started(1), step(0), ended(steps=1))
        before = await store.newest(limit=5, owner="o")
    index = tmp_path / "agent" / "runs.sqlite"
    if damage == "behind":
        os.rename(tmp_path / "agent" / f"{run_id(1)}.jsonl", tmp_path / f"{run_id(1)}.jsonl")
        async with open_store(tmp_path / "agent") as store:
            assert await store.newest(limit=5, owner="o") == []
        os.rename(tmp_path / f"{run_id(1)}.jsonl", tmp_path / "agent" / f"{run_id(1)}.jsonl")
    else:
        for name in ("runs.sqlite", "runs.sqlite-wal", "runs.sqlite-shm"):
            (tmp_path / "agent" / name).unlink(missing_ok=True)
    if damage == "garbage":
        index.write_bytes(b"no database" * 100)
    async with open_store(tmp_path / "agent") as store:
        assert await store.newest(limit=5, owner="o") == before


async def test_the_oldest_runs_make_room(tmp_path: Path) -> None:
    async with open_store(tmp_path / "agent", total=6_000) as store:
        for number in range(1, 9):
            await put(store, number, started(number, ts=100.0 + number), step(0, text="y" * 800), ended())
        rows = await store.newest(limit=99, owner="o")
        assert sum(row.bytes for row in rows) <= 6_000
        assert rows[0].run_id == run_id(8)
        assert await store.load(run_id(1)) is None
    assert len([name for name in os.listdir(tmp_path / "agent") if name.endswith(".jsonl")]) == len(rows)


async def test_a_full_disk_refuses_the_event_whole_and_the_run_goes_on_after_it(tmp_path: Path) -> None:
    full = False

    def write(file: int, data: memoryview) -> int:
        if full:
            os.write(file, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return os.write(file, data)

    async with open_store(tmp_path / "agent", write=write) as store:
        with store.begin(run_id(1)) as sink:
            await sink.append(started())
            full = True
            with pytest.raises(StorageFull):
                await sink.append(step(0))
            full = False
            await sink.append(step(0))
            await sink.append(ended(steps=1))
        found = await store.load(run_id(1))
    assert found is not None
    assert (found.flaw, len(found.lines)) == (None, 4 - 1)


@pytest.mark.parametrize("keep_files", [True, False])
async def test_finished_runs_are_records_of_the_journal_too_or_alone(tmp_path: Path, keep_files: bool) -> None:
    async with open_journal(tmp_path / "agent") as journal:
        async with open_store(tmp_path / "agent", journal=journal, keep_files=keep_files) as store:
            await put(store, 1, started(1), step(0, request=LONG), ended(steps=1))
            found = await store.load(run_id(1))
            [row] = await store.newest(limit=5, owner="o")
    assert found is not None
    assert [event["type"] for event in found.events] == ["run_started", "plan", "run_completed"]
    assert found.events[1]["request"] == LONG
    assert row.ok is True
    assert (tmp_path / "agent" / f"{run_id(1)}.jsonl").exists() == keep_files
    assert len((tmp_path / "agent" / "runs.jsonl").read_bytes().splitlines()) == 1


@pytest.mark.parametrize("name", ["run-xyz", "../secret", "tool-" + "0" * 24, ""])
async def test_what_is_no_run_id_is_no_run(tmp_path: Path, name: str) -> None:
    async with open_store(tmp_path / "agent") as store:
        assert await store.load(name) is None


def lines_of(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines()


def flip(path: Path, line: int) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    lines[line] = lines[line].replace(b'"turn"', b'"turm"')
    path.write_bytes(b"".join(lines))


def lose_index(directory: Path) -> None:
    for path in directory.glob("runs.sqlite*"):
        path.unlink()


async def test_a_run_that_goes_on_is_listed_and_can_be_read(tmp_path: Path) -> None:
    async with open_store(tmp_path / "agent") as store:
        await put(store, 1, started(1, ts=90.0), ended())
        with store.begin(run_id(2)) as sink:
            await sink.append(started(2, ts=110.0))
            await sink.append(step(0))
            rows = await store.newest(limit=5, owner="o")
            nobody = await store.newest(limit=5, owner="other")
            failed = await store.newest(limit=5, owner="o", ok=False)
            older = await store.newest(limit=5, owner="o", before=(110.0, run_id(2)))
            first = await store.newest(limit=1, owner="o")
            found = await store.load(run_id(2))
            assert await store.owner_of(run_id(2)) == "o"
            await sink.append(ended(steps=1))
        after = await store.newest(limit=5, owner="o")
    assert [(row.run_id, row.ok) for row in rows] == [(run_id(2), None), (run_id(1), True)]
    assert [row.run_id for row in older] == [run_id(1)]
    assert [row.run_id for row in first] == [run_id(2)]
    assert (nobody, failed) == ([], [])
    assert found is not None
    assert len(found.events) == 2
    assert [(row.run_id, row.ok) for row in after] == [(run_id(2), True), (run_id(1), True)]


async def test_a_run_of_a_journal_alone_comes_back_with_its_own_bytes(tmp_path: Path) -> None:
    async with open_journal(tmp_path / "agent") as journal:
        async with open_store(tmp_path / "agent", journal=journal, keep_files=False) as store:
            lines = await put(store, 1, started(1), step(0, request=LONG, result={"a": "☃" + LONG}), ended(steps=1))
            found = await store.load(run_id(1))
    assert found is not None
    assert (found.flaw, list(found.lines)) == (None, lines)
    assert found.events[1]["result"] == {"a": "☃" + LONG}
    assert [path.name for path in (tmp_path / "agent").iterdir() if path.name.startswith("run-")] == []


async def test_the_index_of_a_journal_alone_is_made_again_from_the_journal(tmp_path: Path) -> None:
    async with open_journal(tmp_path / "agent") as journal:
        async with open_store(tmp_path / "agent", journal=journal, keep_files=False) as store:
            for number in (1, 2, 3):
                await put(store, number, started(number, ts=100.0 + number), ended(ok=number != 2))
            before = await store.newest(limit=9, owner="o")
        lose_index(tmp_path / "agent")
        async with open_store(tmp_path / "agent", journal=journal, keep_files=False) as store:
            after = await store.newest(limit=9, owner="o")
    assert [(row.run_id, row.ok, row.error) for row in after] == [(row.run_id, row.ok, row.error) for row in before]
    assert len(after) == 3


@pytest.mark.parametrize("keep_files", [True, False])
async def test_a_run_whose_end_did_not_reach_the_journal_does_at_the_next_start(
    tmp_path: Path, keep_files: bool
) -> None:
    async with open_store(tmp_path / "agent") as store:
        lines = await put(store, 1, started(1), step(0, request=LONG), ended(steps=1))
    lose_index(tmp_path / "agent")
    async with open_journal(tmp_path / "agent") as journal:
        async with open_store(tmp_path / "agent", journal=journal, keep_files=keep_files) as store:
            found = await store.load(run_id(1))
            [row] = await store.newest(limit=5, owner="o")
    assert found is not None
    assert list(found.lines) == lines
    assert row.ok is True
    assert len(lines_of(tmp_path / "agent" / "runs.jsonl")) == 1


async def test_a_journal_that_is_full_costs_no_run(tmp_path: Path) -> None:
    def write(file: int, data: memoryview) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async with open_journal(tmp_path / "agent", write=write) as journal:
        async with open_store(tmp_path / "agent", journal=journal, keep_files=False) as store:
            lines = await put(store, 1, started(1), ended())
            found = await store.load(run_id(1))
    assert found is not None
    assert list(found.lines) == lines


@pytest.mark.parametrize("line", [0, 1])
async def test_a_damaged_run_is_left_as_it_is_when_the_index_is_lost(tmp_path: Path, line: int) -> None:
    """Damage is evidence: it is not cut off, not covered by another end, and not removed."""
    async with open_store(tmp_path / "agent") as store:
        await put(store, 1, started(), step(0), ended(steps=1))
    path = tmp_path / "agent" / f"{run_id(1)}.jsonl"
    flip(path, line)
    before = path.read_bytes()
    lose_index(tmp_path / "agent")
    async with open_store(tmp_path / "agent") as store:
        found = await store.load(run_id(1))
        assert store.statistics().interrupted == 0
    assert found is not None
    assert found.flaw is not None
    assert (found.flaw[0], path.read_bytes()) == (line, before)


async def test_a_cut_run_whose_first_event_is_damaged_is_left_as_it_is(tmp_path: Path) -> None:
    async with open_store(tmp_path / "agent") as store:
        with store.begin(run_id(1)) as sink:
            await sink.append(started())
            await sink.append(step(0))
    path = tmp_path / "agent" / f"{run_id(1)}.jsonl"
    flip(path, 0)
    before = path.read_bytes()
    async with open_store(tmp_path / "agent"):
        assert path.read_bytes() == before


async def test_an_ended_run_with_a_lost_payload_does_not_end_twice(tmp_path: Path) -> None:
    async with open_store(tmp_path / "agent") as store:
        lines = await put(store, 1, started(), step(0, request=LONG), ended(steps=1))
    for payload in (tmp_path / "agent" / f"{run_id(1)}.payloads").iterdir():
        payload.unlink()
    lose_index(tmp_path / "agent")
    async with open_store(tmp_path / "agent"):
        assert lines_of(tmp_path / "agent" / f"{run_id(1)}.jsonl") == lines


async def test_a_full_disk_at_the_start_leaves_the_ends_to_the_next_one(tmp_path: Path) -> None:
    def write(file: int, data: memoryview) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    async with open_store(tmp_path / "agent") as store:
        lines = await put(store, 1, started(), step(0))
    async with open_store(tmp_path / "agent", write=write) as store:
        assert store.statistics().failing
        found = await store.load(run_id(1))
    assert found is not None
    assert list(found.lines) == lines
    async with open_store(tmp_path / "agent") as store:
        again = await store.load(run_id(1))
    assert again is not None
    assert again.events[-1]["error"] == "interrupted"


async def test_a_full_disk_is_told_until_an_event_is_kept_again(tmp_path: Path) -> None:
    full = True

    def write(file: int, data: memoryview) -> int:
        if full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return os.write(file, data)

    async with open_store(tmp_path / "agent", write=write) as store:
        with store.begin(run_id(1)) as sink, pytest.raises(StorageFull):
            await sink.append(started())
        assert (store.statistics().failing, store.statistics().errors) == (True, 1)
        assert not list((tmp_path / "agent").glob("run-*")), "a run that never was leaves no file"
        full = False
        await put(store, 2, started(2), ended())
        assert (store.statistics().failing, store.statistics().errors) == (False, 1)


async def test_an_index_that_cannot_be_written_costs_no_run(tmp_path: Path) -> None:
    async with open_store(tmp_path / "agent") as store:
        store._index.close()  # as after a disk error: SQLite refuses everything
        store._index._connection = sqlite3.connect(":memory:", check_same_thread=False)
        lines = await put(store, 1, started(1), ended())
        found = await store.load(run_id(1))
    assert found is not None
    assert list(found.lines) == lines
    async with open_store(tmp_path / "agent") as store:
        assert [row.ok for row in await store.newest(limit=5, owner="o")] == [True]


async def test_all_old_runs_are_taken_in_when_the_index_is_lost_and_only_cut_ones_are_changed(tmp_path: Path) -> None:
    async with open_store(tmp_path / "agent") as store:
        for number in range(1, 41):
            last = () if number > 36 else (ended(steps=1),)
            await put(store, number, started(number, ts=100.0 + number), step(0, request=LONG), *last)
    lose_index(tmp_path / "agent")
    async with open_store(tmp_path / "agent") as store:
        rows = await store.newest(limit=99, owner="o")
        assert store.statistics().interrupted == 4
    assert len(rows) == 40
    assert {row.run_id for row in rows if row.error == "interrupted"} == {run_id(number) for number in range(37, 41)}
    assert all(row.bytes > len(LONG) for row in rows)


async def test_a_run_is_in_the_journal_once_whatever_becomes_of_the_index(tmp_path: Path) -> None:
    async with open_journal(tmp_path / "agent") as journal:
        for _ in range(2):
            async with open_store(tmp_path / "agent", journal=journal) as store:
                if await store.load(run_id(1)) is None:
                    await put(store, 1, started(1), ended())
            lose_index(tmp_path / "agent")
    assert len(lines_of(tmp_path / "agent" / "runs.jsonl")) == 1


@pytest.mark.parametrize("keep_files", [True, False])
async def test_a_file_on_its_way_into_the_journal_is_read_from_there_and_a_damaged_one_is_not(
    tmp_path: Path, keep_files: bool
) -> None:
    async with open_journal(tmp_path / "agent") as journal:
        async with open_store(tmp_path / "agent", journal=journal) as store:
            lines = await put(store, 1, started(), step(0, request=LONG), ended(steps=1))
        async with open_store(tmp_path / "agent", journal=journal, keep_files=keep_files) as store:
            for payload in (tmp_path / "agent" / f"{run_id(1)}.payloads").iterdir():
                payload.unlink()
            found = await store.load(run_id(1))
    assert found is not None
    assert list(found.lines) == lines
    assert (found.flaw is None) == (not keep_files)
