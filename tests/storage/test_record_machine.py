"""The record log against a model: any order of appending, reading, crashes, full disks, restarts and lost indexes."""

import os
import shutil
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from appliance.protocol.errors import StorageFull
from appliance.storage.records import RecordLog
from appliance.storage.segments import list_closed
from tests.storage.record_support import append_many, id_of, running, verify_log
from tests.storage.support import Disk

MAX_BYTES = 3000
Work = Callable[[RecordLog], Awaitable[None]]


class RecordLogMachine(RuleBasedStateMachine):
    """The model: the lines by id. Between the rules no process runs, so that each may find what a crash has left."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())
        self.path = self.directory / "invocations.jsonl"
        self.disk = Disk()
        self.lines: dict[str, bytes] = {}
        self.number = 0

    def teardown(self) -> None:
        shutil.rmtree(self.directory)

    def _run(self, work: Work) -> None:
        async def main() -> None:
            async with running(self.path, self.disk, max_bytes=MAX_BYTES, lookup_patience_s=1) as records:
                await work(records)

        trio.run(main)

    def _next(self, count: int) -> range:
        self.number += count
        return range(self.number - count, self.number)

    @rule(count=st.integers(1, 12), durable=st.booleans(), filler=st.integers(0, 500))
    def append(self, count: int, durable: bool, filler: int) -> None:
        async def work(records: RecordLog) -> None:
            self.lines |= await append_many(records, self._next(count), durable=durable, filler="x" * filler)

        self._run(work)

    @rule(first=st.integers(0, 5), second=st.integers(1, 5))
    def append_while_the_disk_fills_up_and_is_freed(self, first: int, second: int) -> None:
        async def work(records: RecordLog) -> None:
            self.lines |= await append_many(records, self._next(first))
            self.disk.fill()
            for number in self._next(second):
                try:
                    await records.append(id_of(number), {}, durable=False)
                except StorageFull:
                    continue
                raise AssertionError("a full disk took it")
            self.disk.free()
            self.lines |= await append_many(records, self._next(1))

        self._run(work)

    @rule()
    def read(self) -> None:
        async def work(records: RecordLog) -> None:
            for record_id, line in self.lines.items():
                assert await records.read(record_id) == line
            assert await records.read(id_of(10**9)) is None

        self._run(work)

    @rule(data=st.data())
    def crash_in_the_middle_of_a_batch(self, data: st.DataObject) -> None:
        """What was written of it stays, acknowledged or not."""
        before = self._sizes()
        known = dict(self.lines)
        self.append(count=3, durable=False, filler=100)
        if self._sizes().keys() == before.keys():
            grown = self.path.stat().st_size
            cut = data.draw(st.integers(before.get(self.path.name, 0), grown))
            text = self.path.read_bytes()[:cut]
            self.path.write_bytes(text)
            self.lines = known | {i: line for i, line in self.lines.items() if line + b"\n" in text}

    @rule(rubbish=st.binary(min_size=1, max_size=50))
    def tear_the_tail(self, rubbish: bytes) -> None:
        with self.path.open("ab") as file:
            file.write(rubbish)

    @rule(how=st.sampled_from(["delete", "damage", "truncate"]))
    def lose_the_index(self, how: str) -> None:
        index = self.directory / "invocations.jsonl.index"
        if not index.exists():
            return
        if how == "delete":
            index.unlink()
        else:
            os.truncate(index, index.stat().st_size // 2 if how == "truncate" else 0)

    @invariant()
    def chain_is_whole_up_to_a_torn_tail(self) -> None:
        found = verify_log(self.path)
        assert found.records >= len(self.lines)
        assert found.flaw is None or found.flaw.line == found.records + 1

    @invariant()
    def segments_keep_their_size(self) -> None:
        assert all(segment.size <= MAX_BYTES + 12 * 900 for segment in list_closed(self.path))

    def _sizes(self) -> dict[str, int]:
        return {entry.name: entry.stat().st_size for entry in self.directory.glob("*.jsonl")}


TestRecordLogMachine = RecordLogMachine.TestCase
TestRecordLogMachine.settings = settings(max_examples=15, stateful_step_count=12, deadline=None)
