"""Real disks under the record log: one that is full, one that is read-only, and a process killed while it writes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from appliance.protocol.errors import StorageFull
from tests.storage.record_support import append_in_turn, assert_found, assert_whole, id_of, running, until, verify_log
from tests.storage.support import names_in
from tests.storage.test_real_disk import SIZE_BYTES, small_disk

__all__ = ["small_disk"]
pytestmark = pytest.mark.real
ROUNDS = 60


@pytest.mark.parametrize("mode", ["ndjson", "per_invocation", "both"])
async def test_log_on_a_full_disk_refuses_answers_what_it_has_and_recovers(small_disk: Path, mode: str) -> None:
    path, filler = small_disk / "tools" / "invocations.jsonl", small_disk / "filler"
    filler.write_bytes(b"x" * (SIZE_BYTES - 300_000))
    kept: dict[str, bytes] = {}
    async with running(path, mode=mode, retry_interval_s=0.01) as records:
        with pytest.raises(StorageFull):
            for number in range(1000):
                kept |= await append_in_turn(records, range(number, number + 1), filler="x" * 2000)
        await assert_found(records, kept)
        for _ in range(3):
            with pytest.raises(StorageFull):
                await records.append(id_of(5000), {"x": "y" * 100_000}, durable=True)
        filler.unlink()
        await until(lambda now: not now.failing, records)
        kept |= await append_in_turn(records, range(2000, 2010))
        await assert_found(records, kept)
        assert await records.read(id_of(5000)) is None
    async with running(path, mode=mode) as records:
        await assert_found(records, kept)
    if mode != "per_invocation":
        assert_whole(path, len(kept))
    assert not [name for name in names_in(path.parent) if name.endswith(".tmp")]


async def test_log_on_a_read_only_disk_answers_what_it_has_and_recovers(small_disk: Path) -> None:
    path = small_disk / "tools" / "invocations.jsonl"
    async with running(path, mode="both") as records:
        kept = await append_in_turn(records, range(20))
    remount(small_disk, "ro")
    async with running(path, mode="both", retry_interval_s=0.01) as records:
        await assert_found(records, kept)
        with pytest.raises(StorageFull):
            records.check_writable()
        with pytest.raises(StorageFull):
            await records.append(id_of(50), {}, durable=False)
        remount(small_disk, "rw")
        await until(lambda now: not now.failing, records)
        kept |= await append_in_turn(records, range(20, 30))
        await assert_found(records, kept)
    assert_whole(path, 30)


def remount(disk: Path, how: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{how}", str(disk)], check=True)


WRITER = """
import os, sys, trio
from pathlib import Path
from appliance.protocol.ids import new_id
from appliance.storage.records import RecordLog

def say(line):
    os.write(1, line + b"\\n")  # what was said survives the kill

async def main():
    path, mode = Path(sys.argv[1]), sys.argv[2]
    records = RecordLog(path, directory=path.parent, mode=mode, id_field="replay_id", max_bytes=200_000,
                        total_max_bytes=0, log=lambda *_a, **_k: None)
    async def call(durable):
        while True:
            say(await records.append(new_id("tool"), {"args": {"text": "x" * 300}, "ok": True}, durable=durable))
    async with trio.open_nursery() as nursery:
        await nursery.start(records.run)
        say(b"ready")
        for number in range(8):
            nursery.start_soon(call, number % 2 == 0)

trio.run(main)
"""


@pytest.mark.parametrize(("mode", "rounds"), [("ndjson", ROUNDS), ("both", 15), ("per_invocation", 15)])
async def test_nothing_acknowledged_is_lost_when_the_process_is_killed_under_load(
    tmp_path: Path, mode: str, rounds: int
) -> None:
    path = tmp_path / "tools" / "invocations.jsonl"
    kept: dict[str, bytes] = {}
    for number in range(rounds):
        said = run_and_kill(path, mode, 0.02 + 0.003 * number)
        assert said[0] == b"ready"
        kept |= {line.partition(b'"replay_id":"')[2][:29].decode(): line for line in said[1:]}
    assert len(kept) > rounds
    async with running(path, mode=mode, within_s=300) as records:  # a fast disk takes a hundred thousand records
        await assert_found(records, kept)
        fresh = await append_in_turn(records, range(3))
        await assert_found(records, fresh)
    kept |= fresh
    if mode != "per_invocation":
        found = verify_log(path)
        assert found.flaw is None
        assert found.records >= len(kept)
    assert not [name for name in names_in(path.parent) if name.endswith((".tmp", "-journal"))]


def run_and_kill(path: Path, mode: str, seconds: float) -> list[bytes]:
    """Everything that a writer acknowledged before it was killed."""
    said = path.parent.with_name("said")
    with (
        said.open("wb") as out,
        subprocess.Popen([sys.executable, "-c", WRITER, str(path), mode], stdout=out) as writer,
    ):
        deadline = time.monotonic() + 30
        while not said.read_bytes():
            assert time.monotonic() < deadline
            time.sleep(0.002)
        time.sleep(seconds)
        os.kill(writer.pid, signal.SIGKILL)
    return [line[:-1] for line in said.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
