"""Records process: one process of the bench of records; its argument says what it measures."""

import json
import os
import random
import resource
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from appliance.protocol.ids import new_id
from appliance.storage.chain import make_draft, seal
from appliance.storage.record_journal import RecordJournal
from appliance.storage.record_parts import Entry
from appliance.storage.record_scan import IdReader
from appliance.storage.records import RecordLog
from appliance.storage.segments import iterate_lines, list_closed, open_segment
from tools.bench.common import percentile, rss_mb

SEGMENT_BYTES = 100_000_000
APPENDS = 4096
LOOK_UPS = 4000
BATCH = 256


def run_task(argv: list[str]) -> None:
    """Do what the first argument says with the log in the second one, and print what was measured as JSON."""
    task, path = argv[0], Path(argv[1]) / "invocations.jsonl"
    measured = make(path, int(argv[2])) if task == "make" else trio.run({"append": append, "open": look_up}[task], path)
    print(json.dumps(measured))


def make(path: Path, count: int) -> dict[str, float]:
    """Write a log of `count` records such as `noop` leaves."""
    journal = RecordJournal(path, max_bytes=SEGMENT_BYTES, total_max_bytes=0)
    head = journal.open()
    for start in range(0, count, BATCH):
        entries = []
        for number in range(start, min(start + BATCH, count)):
            record_id = new_id("tool")
            sealed = seal(make_draft({**_fields(number), "replay_id": record_id}), head)
            head = sealed.link
            entries.append(Entry(record_id, sealed.line, head))
        journal.append(entries, sync=False)
    journal.close()
    trio.run(_index, path)
    return {}


async def append(path: Path) -> dict[str, float]:
    """CPU us for each record, by durability and by how many are under way at a time."""
    measured = {}
    async with _open_log(path) as records:
        for durable, name in ((False, "batch"), (True, "strict")):
            for group in (1, 8, 32):
                before = time.process_time()
                async with trio.open_nursery() as nursery:
                    for _ in range(group):
                        nursery.start_soon(_append, records, APPENDS // group, durable)
                measured[f"{name} of {group}"] = (time.process_time() - before) / APPENDS * 1e6
    return measured


async def look_up(path: Path) -> dict[str, float]:
    """How long a start takes, and look-ups of records chosen at random."""
    wanted = random.Random(1).choices(  # noqa: S311 - the same ones every time, not secret ones
        list(_sample(path)) or [new_id("tool")], k=LOOK_UPS
    )
    started = time.perf_counter()
    async with _open_log(path) as records:
        opened = time.perf_counter()
        lost = int(await records.read(wanted[0]) is None)
        first = time.perf_counter()
        while records._lookup._index.reached < records._store.end:  # noqa: ASYNC110 - a thread's work, seen from outside
            await trio.sleep(0.01)
        indexed = time.perf_counter()
        times = []
        for record_id in wanted:
            before = time.perf_counter()
            lost += await records.read(record_id) is None
            times.append((time.perf_counter() - before) * 1e6)
        rss = max(rss_mb(os.getpid()), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3)
    return {
        "open_s": opened - started,
        "first_s": first - opened,
        "indexed_s": indexed - opened,
        "p50_us": percentile(times, 50),
        "p99_us": percentile(times, 99),
        "lost": lost,
        "rss_mb": rss,
    }


async def _append(records: RecordLog, count: int, durable: bool) -> None:
    for number in range(count):
        await records.append(new_id("tool"), _fields(number), durable=durable)


async def _index(path: Path) -> None:
    async with _open_log(path) as records:
        await records.read(new_id("tool"))


@asynccontextmanager
async def _open_log(path: Path) -> AsyncIterator[RecordLog]:
    records = RecordLog(
        path,
        directory=path.parent,
        mode="ndjson",
        id_field="replay_id",
        max_bytes=SEGMENT_BYTES,
        total_max_bytes=0,
        log=lambda *_arguments, **_fields: None,
        flush_timeout_s=120,
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(records.run)
        yield records
        records.close_nowait()


def _sample(path: Path) -> Iterator[str]:
    """Ids from the first megabytes of every segment."""
    ids = IdReader("replay_id")
    for first_seq in (*(segment.first_seq for segment in list_closed(path)), 1):
        try:
            file = open_segment(path, first_seq)
        except FileNotFoundError:
            continue
        for _, line in iterate_lines(file, 0, 4_000_000):
            yield ids.read_id(line) or ""
        os.close(file)


def _fields(number: int) -> dict[str, object]:
    return {
        "args": {"text": "a"},
        "ok": True,
        "owner": "0123456789ab",
        "request_hash": "0869d184303c81a6924d5424320a0ba3fa28c1797634b345a8d5d25ef6d3912d",
        "result": {"text": "a"},
        "tool": "noop",
        "tool_cpu_ms": 0.01,
        "tool_io_bytes": 0,
        "tool_runtime_ms": 0.02,
        "ts": 1_700_000_000 + number / 1000,
        "version": "1",
    }


if __name__ == "__main__":
    run_task(sys.argv[1:])
