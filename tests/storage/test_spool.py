"""Spool: what is written is read, nothing has a name, nothing outlives its block, and the cap counts all of them."""

import errno
import hashlib
import os
from pathlib import Path

import pytest
import trio

from appliance.protocol.errors import StorageFull
from appliance.storage.spool import Spool


def make(directory: Path, max_total_bytes: int = 1_000_000) -> Spool:
    return Spool(directory / "uploads", max_total_bytes=max_total_bytes, limiter=trio.CapacityLimiter(2))


async def test_what_is_written_in_pieces_is_read_whole(tmp_path: Path) -> None:
    spool = make(tmp_path)
    pieces = [os.urandom(100_000) for _ in range(7)]
    async with spool.open() as file:
        for piece in pieces:
            await file.write(piece)
        await file.flush()
        assert await file.read() == b"".join(pieces)
        assert await file.read(10) == pieces[0][:10]
        assert (file.size, file.sha256) == (700_000, hashlib.sha256(b"".join(pieces)).hexdigest())
        assert list((tmp_path / "uploads").iterdir()) == [], "a crash leaves nothing behind"
        assert (tmp_path / "uploads").stat().st_mode & 0o777 == 0o700
    assert spool.total_bytes == 0


async def test_all_uploads_together_are_capped_and_one_that_ends_makes_room(tmp_path: Path) -> None:
    spool = make(tmp_path, 100)
    async with spool.open() as first:
        await first.write(b"x" * 60)
        async with spool.open() as second:
            with pytest.raises(StorageFull, match="too many"):
                await second.write(b"x" * 41)
            await second.write(b"x" * 40)
        assert spool.total_bytes == 60
    assert repr(spool) == "<Spool 0 of 100 bytes>"


async def test_a_disk_that_refuses_is_507_and_counts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = make(tmp_path)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "no space")

    async with spool.open() as file:
        monkeypatch.setattr(file, "_append", full)
        await file.write(b"x")
        with pytest.raises(StorageFull):
            await file.flush()
    assert spool.total_bytes == 0
    (tmp_path / "file").touch()
    with pytest.raises(StorageFull):
        async with Spool(tmp_path / "file", max_total_bytes=9, limiter=trio.CapacityLimiter(1)).open():
            pytest.fail("there is no directory")


async def test_an_upload_that_is_cancelled_is_closed(tmp_path: Path) -> None:
    spool = make(tmp_path)
    before = len(os.listdir("/proc/self/fd"))
    with trio.move_on_after(0):
        async with spool.open() as file:
            await file.write(b"x" * 300_000)
    async with spool.open() as file:
        with trio.CancelScope() as scope:
            scope.cancel()
            await file.write(b"x" * 300_000)
    assert (spool.total_bytes, len(os.listdir("/proc/self/fd"))) == (0, before)
