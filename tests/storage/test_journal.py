"""The request journal: a line for every request, and never in a request's way."""

import errno
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from appliance.storage import journal as journal_module
from appliance.storage.atomic import Write
from appliance.storage.journal import MAX_LINE_BYTES, QUEUE_LINES, JournalStatistics, RequestJournal
from tests.storage.support import HUNG_S, Disk


class Events(list[str]):
    """A log that remembers the names of its events."""

    def __call__(self, event: str, **_fields: object) -> None:
        self.append(event)


def make_journal(path: Path, disk: Disk | None = None, *, write: Write | None = None, **more: float) -> RequestJournal:
    options = {"linger_s": 0.0, "retry_interval_s": 0.001, "flush_timeout_s": HUNG_S, **more}
    return RequestJournal(
        path,
        max_bytes=0,
        limiter=trio.CapacityLimiter(1),
        log=Events(),
        write=write or (disk or Disk()).write,
        **options,
    )


def lines_of(path: Path) -> Iterator[object]:
    return map(json.loads, path.read_bytes().splitlines())


async def run_to_the_end(journal: RequestJournal) -> None:
    journal.close_nowait()
    with trio.fail_after(HUNG_S):
        await journal.run()


async def until(condition: Callable[[JournalStatistics], bool], journal: RequestJournal) -> None:
    """Wait for a thread to have done its work; bounded."""
    with trio.fail_after(HUNG_S):
        while not condition(journal.statistics()):  # noqa: ASYNC110 (a thread's work has no event)
            await trio.sleep(0.001)


async def test_lines_are_compact_json_in_order_and_all_there_after_the_end(tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    journal = make_journal(path)
    async with trio.open_nursery() as nursery:
        await nursery.start(journal.run)
        for number in range(3000):
            journal.record_nowait({"status": 200, "n": number, "route": "/v1/é"})
            if number % 1000 == 0:
                await trio.lowlevel.checkpoint()
        journal.close_nowait()
    assert [line["n"] for line in lines_of(path)] == list(range(3000))  # type: ignore[index]
    assert path.read_bytes().startswith('{"status":200,"n":0,"route":"/v1/é"}\n'.encode())
    assert journal.statistics().written == 3000
    assert journal.statistics().queued == 0


async def test_queue_that_holds_a_whole_batch_does_not_wait_for_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "BATCH_LINES", 10)
    journal = make_journal(tmp_path / "requests.jsonl", linger_s=1000)
    async with trio.open_nursery() as nursery:
        await nursery.start(journal.run)
        for number in range(35):
            journal.record_nowait({"n": number})
        await until(lambda now: now.written == 30, journal)
        journal.close_nowait()
    assert journal.statistics().written == 35


async def test_lines_that_come_together_are_written_together(tmp_path: Path) -> None:
    writes: list[int] = []

    class Counting(Disk):
        def write(self, file: int, data: memoryview) -> int:
            writes.append(len(data))
            return super().write(file, data)

    journal = make_journal(tmp_path / "requests.jsonl", Counting(), linger_s=0.01)
    async with trio.open_nursery() as nursery:
        await nursery.start(journal.run)
        for number in range(100):
            journal.record_nowait({"n": number})
            await trio.lowlevel.checkpoint()
        journal.close_nowait()
    assert len(writes) == 1


async def test_full_queue_drops_and_counts_and_never_blocks(tmp_path: Path) -> None:
    journal = make_journal(tmp_path / "requests.jsonl")
    for number in range(QUEUE_LINES + 10):
        journal.record_nowait({"n": number})
    assert journal.statistics().queued == QUEUE_LINES
    assert journal.statistics().dropped == 10
    await run_to_the_end(journal)
    assert journal.statistics().written == QUEUE_LINES
    journal.record_nowait({"too": "late"})
    assert journal.statistics().dropped == 11


async def test_line_that_is_too_long_is_dropped_and_what_is_no_json_raises(tmp_path: Path) -> None:
    journal = make_journal(tmp_path / "requests.jsonl")
    journal.record_nowait({"x": "y" * MAX_LINE_BYTES})
    assert journal.statistics().dropped == 1
    with pytest.raises(ValueError, match="serialize"):
        journal.record_nowait({"x": object()})
    assert journal.statistics().queued == 0
    journal.record_nowait({"x": float("nan")})
    await run_to_the_end(journal)
    assert list(lines_of(tmp_path / "requests.jsonl")) == [{"x": None}]


async def test_torn_tail_is_completed_at_the_start_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    path.write_bytes(b'{"n":0}\n{"n":1,"ro')
    journal = make_journal(path)
    journal.record_nowait({"n": 2})
    await run_to_the_end(journal)
    assert path.read_bytes() == b'{"n":0}\n{"n":1,"ro\n{"n":2}\n'
    assert journal.statistics().torn_tails == 1


async def test_journal_that_is_full_is_turned_over(tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    journal = RequestJournal(
        path, max_bytes=20, limiter=trio.CapacityLimiter(1), log=Events(), linger_s=0, write=Disk().write
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(journal.run)
        for number in range(3):
            journal.record_nowait({"n": number})
            await until(lambda now, wanted=number + 1: now.written == wanted, journal)
        journal.close_nowait()
    assert path.read_bytes() == b'{"n":2}\n'
    assert path.with_name("requests.jsonl.1").read_bytes() == b'{"n":0}\n{"n":1}\n'
    assert journal.statistics().turned_over == 1


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO])
async def test_failing_disk_is_flagged_and_nothing_queued_is_lost_when_it_recovers(tmp_path: Path, number: int) -> None:
    path, disk, events = tmp_path / "requests.jsonl", Disk(), Events()
    journal = make_journal(path, disk)
    journal._log = events
    async with trio.open_nursery() as nursery:
        await nursery.start(journal.run)
        disk.error = number
        journal.record_nowait({"n": 0})
        await until(lambda now: now.errors >= 3, journal)
        assert journal.statistics().failing
        journal.record_nowait({"n": 1})
        disk.free()
        await until(lambda now: now.written == 2, journal)
        assert not journal.statistics().failing
        journal.close_nowait()
    assert path.read_bytes() == b'{"n":0}\n{"n":1}\n'
    assert journal.statistics().dropped == 0
    assert events == ["journal_failed", "journal_recovered"]


async def test_failing_disk_does_not_hold_up_the_end_and_what_is_lost_is_counted(tmp_path: Path) -> None:
    disk = Disk()
    disk.fill()
    journal = make_journal(tmp_path / "requests.jsonl", disk, retry_interval_s=1000, flush_timeout_s=1000)
    with trio.fail_after(HUNG_S):
        async with trio.open_nursery() as nursery:
            await nursery.start(journal.run)
            for number in range(5):
                journal.record_nowait({"n": number})
            await until(lambda now: now.failing, journal)
            journal.record_nowait({"n": 5})
            journal.close_nowait()
    now = journal.statistics()
    assert (now.written, now.dropped, now.queued) == (0, 6, 0)


async def test_journal_that_cannot_be_opened_at_the_start_still_starts(tmp_path: Path) -> None:
    (tmp_path / "requests.jsonl").mkdir()
    journal = make_journal(tmp_path / "requests.jsonl")
    async with trio.open_nursery() as nursery:
        await nursery.start(journal.run)
        assert journal.statistics().failing
        journal.record_nowait({"n": 0})
        (tmp_path / "requests.jsonl").rmdir()
        await until(lambda now: now.written == 1, journal)
        journal.close_nowait()


async def test_disk_that_hangs_does_not_hold_up_the_end(tmp_path: Path) -> None:
    gate = threading.Event()

    def hang(file: int, data: memoryview) -> int:
        gate.wait(10)
        return Disk().write(file, data)

    journal = make_journal(tmp_path / "requests.jsonl", write=hang, flush_timeout_s=0.01)
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(journal.run)
            journal.record_nowait({"n": 0})
            await trio.testing.wait_all_tasks_blocked(0.01)
            journal.record_nowait({"n": 1})
            with trio.fail_after(HUNG_S):
                journal.close_nowait()
                await until(lambda now: now.dropped == 2, journal)
    finally:
        gate.set()


async def test_cancelled_journal_counts_what_it_loses(tmp_path: Path) -> None:
    journal = make_journal(tmp_path / "requests.jsonl", linger_s=1000)
    async with trio.open_nursery() as nursery:
        await nursery.start(journal.run)
        journal.record_nowait({"n": 0})
        await trio.testing.wait_all_tasks_blocked()
        journal.record_nowait({"n": 1})
        nursery.cancel_scope.cancel()
    now = journal.statistics()
    assert (now.written, now.dropped, now.queued) == (0, 2, 0)
    assert repr(journal) == "<RequestJournal well, 0 queued, 0 written, 2 dropped>"


async def test_queue_larger_than_a_batch_is_written_to_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "BATCH_LINES", 7)
    path = tmp_path / "requests.jsonl"
    journal = make_journal(path)
    for number in range(100):
        journal.record_nowait({"n": number})
    await run_to_the_end(journal)
    assert [line["n"] for line in lines_of(path)] == list(range(100))  # type: ignore[index]
