"""Runs: events are safe as they happen, a cut-off run gets its end, and the index can always be read off the files."""

import errno
import os
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
        keep_files=keep_files,
        files=trio.CapacityLimiter(2),
        index_limiter=trio.CapacityLimiter(1),
        log=lambda *_args, **_fields: None,
        write=write,
        now=lambda: 200.0,
    )
    async with store.opened():
        yield store


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
    journal = RecordLog(
        tmp_path / "agent" / "runs.jsonl",
        directory=tmp_path / "agent",
        mode="ndjson",
        id_field="run_id",
        max_bytes=0,
        total_max_bytes=0,
        log=lambda *_args, **_fields: None,
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(journal.run)
        async with open_store(tmp_path / "agent", journal=journal, keep_files=keep_files) as store:
            await put(store, 1, started(1), step(0, request=LONG), ended(steps=1))
            found = await store.load(run_id(1))
            [row] = await store.newest(limit=5, owner="o")
        journal.close_nowait()
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
