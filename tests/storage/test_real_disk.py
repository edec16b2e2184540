"""Real disks: a file system that is full, one that is read-only, and a process killed while it writes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import trio

from appliance.protocol.errors import StorageFull
from appliance.storage.atomic import write_atomic
from appliance.storage.images import ImageStore
from appliance.storage.journal import RequestJournal
from tests.fakes.disks import SIZE_BYTES, small_disk
from tests.storage.support import HUNG_S, assert_consistent, names_in, picture

__all__ = ["small_disk"]

pytestmark = pytest.mark.real


def make_store(directory: Path) -> ImageStore:
    return ImageStore(
        directory / "images",
        ttl_s=900,
        max_item_bytes=10 * SIZE_BYTES,
        max_total_bytes=100 * SIZE_BYTES,
        limiter=trio.CapacityLimiter(4),
    )


async def test_store_on_a_full_disk_answers_507_and_recovers(small_disk: Path) -> None:
    store = make_store(small_disk)
    kept = []
    with pytest.raises(StorageFull):
        for seed in range(10):
            kept.append(await store.save(picture(seed, size=300_000)))
    assert len(kept) == 3
    assert_consistent(store, small_disk / "images")
    for stored in kept:
        assert await store.load(stored.sha256, "png") is not None
    (small_disk / "images" / kept[0].name).unlink()
    assert await store.load(kept[0].sha256, "png") is None
    await store.save(picture(9, size=300_000))
    assert_consistent(store, small_disk / "images")


async def test_store_on_a_read_only_disk_serves_what_it_has_and_recovers(small_disk: Path) -> None:
    store = make_store(small_disk)
    stored = await store.save(picture(1))
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)  # noqa: ASYNC221 (a moment, in a test)
    with pytest.raises(StorageFull):
        await store.save(picture(2))
    await store.sweep()
    assert await store.load(stored.sha256, "png") == picture(1).data
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)  # noqa: ASYNC221 (as above)
    await store.save(picture(2))
    assert_consistent(store, small_disk / "images")


def test_atomic_file_on_a_full_disk_leaves_the_old_one(small_disk: Path) -> None:
    write_atomic(small_disk / "a", b"old", durable=True)
    with pytest.raises(OSError, match="No space left"):
        write_atomic(small_disk / "a", b"x" * 2 * SIZE_BYTES, durable=True)
    assert (small_disk / "a").read_bytes() == b"old"
    assert names_in(small_disk) == ["a"]


async def test_journal_on_a_full_disk_recovers_with_whole_lines(small_disk: Path) -> None:
    path = small_disk / "requests.jsonl"
    (small_disk / "filler").write_bytes(b"x" * (SIZE_BYTES - 8192))
    journal = RequestJournal(
        path,
        max_bytes=0,
        limiter=trio.CapacityLimiter(1),
        log=lambda *_a, **_k: None,
        linger_s=0,
        retry_interval_s=0.01,
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(journal.run)
        for number in range(200):
            journal.record_nowait({"n": number, "filler": "x" * 100})
        with trio.fail_after(HUNG_S):
            while not journal.statistics().failing:  # noqa: ASYNC110 (a thread's work has no event)
                await trio.sleep(0.01)
            (small_disk / "filler").unlink()
            while journal.statistics().failing:  # noqa: ASYNC110 (as above)
                await trio.sleep(0.01)
        journal.close_nowait()
    assert [json.loads(line)["n"] for line in path.read_bytes().splitlines()] == list(range(200))


WRITER = """
import sys, trio
from pathlib import Path
from appliance.storage.journal import RequestJournal

async def main():
    limiter = trio.CapacityLimiter(1)
    journal = RequestJournal(Path(sys.argv[1]), max_bytes=200_000, limiter=limiter, log=print, linger_s=0.001)
    async with trio.open_nursery() as nursery:
        await nursery.start(journal.run)
        print("ready", flush=True)
        number = 0
        while True:
            number += 1
            journal.record_nowait({"n": number, "filler": "x" * 400})
            if number % 50 == 0:
                await trio.sleep(0.001)

trio.run(main)
"""


def test_journal_of_a_process_killed_at_any_moment_stays_readable(tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    for round_number in range(8):
        with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"ready\n"
            time.sleep(0.05 + 0.013 * round_number)
            os.kill(writer.pid, signal.SIGKILL)
    unreadable = 0
    for part in (path, path.with_name("requests.jsonl.1")):
        for line in part.read_bytes().splitlines():
            try:
                assert set(json.loads(line)) == {"n", "filler"}
            except ValueError:
                unreadable += 1
    assert unreadable <= 8  # one torn tail a kill at most, alone on its line
    assert path.stat().st_size <= 200_000 + 500
