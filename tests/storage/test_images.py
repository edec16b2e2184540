"""The image store: what was drawn is found again, for its time, within its limits."""

import errno
import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
import trio.testing

from appliance.protocol.errors import StorageFull
from appliance.protocol.images import Image
from appliance.storage import imagefiles
from appliance.storage.images import ImageStore, load_image_store, run_sweeper
from tests.storage.support import (
    START_S,
    TTL_S,
    Clock,
    Disk,
    assert_consistent,
    make_store,
    names_in,
    picture,
    sha256_of,
)


@pytest.mark.parametrize(("kind", "extension"), [("png", "png"), ("jpeg", "jpg"), ("webp", "webp"), ("svg", "svg")])
async def test_saved_picture_is_a_private_file_named_by_its_hash(tmp_path: Path, kind: str, extension: str) -> None:
    store = make_store(tmp_path, Clock())
    image = Image(b"content", kind)  # type: ignore[arg-type]  # parametrised
    stored = await store.save(image)
    assert stored.name == f"{hashlib.sha256(b'content').hexdigest()}.{extension}"
    assert stored.size == 7
    assert names_in(tmp_path) == [stored.name]
    assert stat.S_IMODE((tmp_path / stored.name).stat().st_mode) == 0o600
    assert await store.load(stored.sha256, stored.extension) == b"content"
    assert_consistent(store, tmp_path)


async def test_same_content_is_written_once_by_many_at_a_time(tmp_path: Path) -> None:
    disk = Disk()
    store = make_store(tmp_path, Clock(), disk=disk)
    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(store.save, picture(1))
    assert disk.writes == 1
    assert store.statistics().saved == 1
    assert_consistent(store, tmp_path)


async def test_different_pictures_saved_together_are_all_kept(tmp_path: Path) -> None:
    store = make_store(tmp_path, Clock())
    async with trio.open_nursery() as nursery:
        for seed in range(20):
            nursery.start_soon(store.save, picture(seed))
    for seed in range(20):
        assert await store.load(sha256_of(picture(seed)), "png") == picture(seed).data
    assert_consistent(store, tmp_path)


async def test_expired_picture_is_not_served_before_the_sweep_and_gone_after(tmp_path: Path) -> None:
    clock = Clock()
    store = make_store(tmp_path, clock)
    stored = await store.save(picture(1))
    clock.time_s += TTL_S + 1
    assert await store.load(stored.sha256, "png") is None
    assert names_in(tmp_path) == [stored.name]
    await store.sweep()
    assert names_in(tmp_path) == []
    assert store.statistics().expired == 1
    assert_consistent(store, tmp_path)


async def test_every_use_starts_the_time_again(tmp_path: Path) -> None:
    clock = Clock()
    store = make_store(tmp_path, clock)
    stored = await store.save(picture(1))
    for _ in range(3):
        clock.time_s += TTL_S - 1
        assert await store.load(stored.sha256, "png") is not None
    clock.time_s += TTL_S - 1
    await store.save(picture(1))
    clock.time_s += TTL_S - 1
    await store.sweep()
    assert await store.load(stored.sha256, "png") is not None


async def test_picture_saved_again_after_its_time_is_written_anew(tmp_path: Path) -> None:
    clock, disk = Clock(), Disk()
    store = make_store(tmp_path, clock, disk=disk)
    stored = await store.save(picture(1))
    clock.time_s += TTL_S + 1
    await store.save(picture(1))
    assert disk.writes == 2
    assert await store.load(stored.sha256, "png") == picture(1).data
    assert_consistent(store, tmp_path)


async def test_clock_that_is_set_back_makes_no_picture_live_for_ever(tmp_path: Path) -> None:
    clock = Clock()
    store = make_store(tmp_path, clock)
    await store.save(picture(1))
    clock.time_s -= 10 * TTL_S
    await store.sweep()
    assert names_in(tmp_path) == []


async def test_least_recently_used_picture_makes_room(tmp_path: Path) -> None:
    store = make_store(tmp_path, Clock(), max_total_bytes=300)
    for seed in (1, 2, 3):
        await store.save(picture(seed))
    assert await store.load(sha256_of(picture(1)), "png") is not None
    await store.save(picture(4))
    assert await store.load(sha256_of(picture(2)), "png") is None
    assert await store.load(sha256_of(picture(1)), "png") is not None
    assert store.statistics().evictions == 1
    assert store.statistics().bytes == 300
    assert_consistent(store, tmp_path)


async def test_tiny_pictures_are_bounded_by_their_number(tmp_path: Path) -> None:
    store = make_store(tmp_path, Clock(), max_items=3)
    for seed in range(10):
        await store.save(picture(seed, size=5))
    assert store.statistics().items == 3
    assert_consistent(store, tmp_path)


async def test_disk_never_holds_more_than_the_cap(tmp_path: Path) -> None:
    class Watching(Disk):
        most_bytes = 0

        def write(self, file: int, data: memoryview) -> int:
            size = super().write(file, data)
            used = sum(entry.stat().st_size for entry in tmp_path.iterdir())
            self.most_bytes = max(self.most_bytes, used)
            return size

    disk = Watching()
    store = make_store(tmp_path, Clock(), max_total_bytes=250, disk=disk)
    for seed in range(6):
        await store.save(picture(seed))
    assert disk.most_bytes == 200


@pytest.mark.parametrize(("max_item", "max_total"), [(99, 1000), (1000, 99)])
async def test_picture_over_a_limit_is_refused_and_evicts_nothing(
    tmp_path: Path, max_item: int, max_total: int
) -> None:
    store = make_store(tmp_path, Clock(), max_item_bytes=max_item, max_total_bytes=max_total)
    small = await store.save(picture(1, size=50))
    with pytest.raises(StorageFull, match="A picture of 100 bytes could not be stored: at most 99 are kept"):
        await store.save(picture(2))
    assert await store.load(small.sha256, "png") is not None
    assert store.statistics().failures == 1


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
async def test_failing_disk_is_storage_full_keeps_nothing_and_recovers(tmp_path: Path, number: int) -> None:
    disk = Disk()
    store = make_store(tmp_path, Clock(), disk=disk)
    await store.save(picture(1))
    disk.error = number
    with pytest.raises(StorageFull) as caught:
        await store.save(picture(2))
    assert caught.value.status == 507
    assert str(tmp_path) not in caught.value.message
    assert store.statistics().items == 1
    assert store.statistics().failures == 1
    assert store.statistics().failing
    assert_consistent(store, tmp_path)
    disk.free()
    stored = await store.save(picture(2))
    assert await store.load(stored.sha256, "png") == picture(2).data
    assert not store.statistics().failing
    assert_consistent(store, tmp_path)


async def test_full_disk_is_freed_of_what_expired_before_the_next_write(tmp_path: Path) -> None:
    clock, disk = Clock(), Disk()
    store = make_store(tmp_path, clock, disk=disk)
    await store.save(picture(1))
    clock.time_s += TTL_S + 1
    disk.fill()
    with pytest.raises(StorageFull):
        await store.save(picture(2))
    assert names_in(tmp_path) == []
    assert_consistent(store, tmp_path)


async def test_directory_removed_by_somebody_is_made_again(tmp_path: Path) -> None:
    store = make_store(tmp_path / "images", Clock())
    first = await store.save(picture(1))
    (tmp_path / "images" / first.name).unlink()
    (tmp_path / "images").rmdir()
    await store.sweep()
    assert store.statistics().failures == 0
    await store.save(picture(2))
    assert await store.load(first.sha256, "png") is None
    await store.save(picture(1))
    assert await store.load(first.sha256, "png") == picture(1).data
    assert_consistent(store, tmp_path / "images")


def _flip(path: Path) -> None:
    path.write_bytes(b"X" + path.read_bytes()[1:])


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:50])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [_flip, _cut, _empty])
async def test_damaged_picture_is_dropped_counted_and_can_be_saved_again(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    store = make_store(tmp_path, Clock())
    stored = await store.save(picture(1))
    damage(tmp_path / stored.name)
    assert await store.load(stored.sha256, "png") is None
    assert store.statistics().corrupt == 1
    assert names_in(tmp_path) == []
    assert_consistent(store, tmp_path)
    await store.save(picture(1))
    assert await store.load(stored.sha256, "png") == picture(1).data


async def test_removed_picture_is_written_anew_when_it_is_saved_again(tmp_path: Path) -> None:
    store = make_store(tmp_path, Clock())
    stored = await store.save(picture(1))
    (tmp_path / stored.name).unlink()
    await store.save(picture(1))
    assert await store.load(stored.sha256, "png") == picture(1).data
    assert store.statistics().evictions == 0
    assert_consistent(store, tmp_path)


async def test_cut_picture_that_cannot_be_written_anew_is_gone(tmp_path: Path) -> None:
    disk = Disk()
    store = make_store(tmp_path, Clock(), disk=disk)
    stored = await store.save(picture(1))
    _cut(tmp_path / stored.name)
    disk.fill()
    with pytest.raises(StorageFull):
        await store.save(picture(1))
    assert store.statistics().items == 0
    assert_consistent(store, tmp_path)


async def test_cut_picture_is_written_anew_when_it_is_saved_again(tmp_path: Path) -> None:
    store = make_store(tmp_path, Clock(), max_total_bytes=200)
    await store.save(picture(2))
    stored = await store.save(picture(1))
    _cut(tmp_path / stored.name)
    await store.save(picture(1))
    assert store.statistics().evictions == 0
    assert await store.load(stored.sha256, "png") == picture(1).data
    assert_consistent(store, tmp_path)


async def test_removed_picture_is_unknown_and_not_called_damaged(tmp_path: Path) -> None:
    store = make_store(tmp_path, Clock())
    stored = await store.save(picture(1))
    (tmp_path / stored.name).unlink()
    assert await store.load(stored.sha256, "png") is None
    assert store.statistics().corrupt == 0
    assert_consistent(store, tmp_path)


async def test_unreadable_disk_drops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_path: Path, _used_at: float | None) -> imagefiles.FileIO:
        raise OSError(errno.EIO, "I/O error")

    store = make_store(tmp_path, Clock())
    stored = await store.save(picture(1))
    with monkeypatch.context() as patch:
        patch.setattr(imagefiles, "open_file", fail)
        assert await store.load(stored.sha256, "png") is None
    assert store.statistics().failures == 1
    assert await store.load(stored.sha256, "png") == picture(1).data


async def test_link_in_place_of_a_picture_is_not_followed(tmp_path: Path) -> None:
    store = make_store(tmp_path / "images", Clock())
    stored = await store.save(picture(1))
    (tmp_path / "copy").write_bytes(picture(1).data)
    (tmp_path / "images" / stored.name).unlink()
    (tmp_path / "images" / stored.name).symlink_to(tmp_path / "copy")
    assert await store.load(stored.sha256, "png") is None


@pytest.mark.parametrize(
    ("sha256", "extension"),
    [
        ("../" * 3 + "etc/passwd", "png"),
        ("A" * 64, "png"),
        ("a" * 63, "png"),
        ("a" * 64, "exe"),
        ("a" * 64, "png/../../x"),
        ("a" * 64 + "\0", "png"),
        ("", ""),
    ],
)
async def test_names_that_the_store_never_gave_do_not_touch_the_disk(
    tmp_path: Path, sha256: str, extension: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def forbidden(*_args: object, **_kwargs: object) -> None:
        raise AssertionError("the disk was asked")

    store = make_store(tmp_path, Clock())
    monkeypatch.setattr(trio.to_thread, "run_sync", forbidden)
    assert await store.load(sha256, extension) is None


async def test_open_picture_can_be_read_to_its_end_after_its_eviction(tmp_path: Path) -> None:
    store = make_store(tmp_path, Clock(), max_total_bytes=100)
    first = await store.save(picture(1))
    async with store.open(first.sha256, "png") as reader:
        assert reader is not None
        assert reader.size == 100
        start = await reader.read(10)
        await store.save(picture(2))
        assert start + await reader.read(1000) == picture(1).data
        assert await reader.read(1000) == b""
    assert await store.load(first.sha256, "png") is None


async def test_descriptors_are_closed_on_every_way_out(tmp_path: Path) -> None:
    store = make_store(tmp_path, Clock())
    stored = await store.save(picture(1))
    damaged = await store.save(picture(2))
    _flip(tmp_path / damaged.name)
    before = len(os.listdir("/proc/self/fd"))
    assert await store.load(stored.sha256, "png") is not None
    assert await store.load(damaged.sha256, "png") is None
    with pytest.raises(ZeroDivisionError):
        async with store.open(stored.sha256, "png"):
            raise ZeroDivisionError
    with trio.CancelScope() as scope:
        async with store.open(stored.sha256, "png") as reader:
            assert reader is not None
            scope.cancel()
            await reader.read()
    assert len(os.listdir("/proc/self/fd")) == before


async def test_restart_remembers_pictures_their_last_use_and_their_order(tmp_path: Path) -> None:
    clock = Clock()
    store = make_store(tmp_path, clock)
    first, second = await store.save(picture(1)), await store.save(picture(2))
    clock.time_s += 600
    assert await store.load(first.sha256, "png") is not None
    clock.time_s += 600
    again = make_store(tmp_path, clock)
    await again.scan()
    assert again.statistics().items == 2
    assert again.statistics().bytes == 200
    assert await again.load(second.sha256, "png") is None
    assert await again.load(first.sha256, "png") == picture(1).data
    smaller = make_store(tmp_path, clock, max_total_bytes=100)
    await smaller.scan()
    await smaller.sweep()
    assert names_in(tmp_path) == [first.name]
    assert_consistent(smaller, tmp_path)


async def test_last_use_reaches_the_disk_now_and_then_only(tmp_path: Path) -> None:
    clock = Clock()
    store = make_store(tmp_path, clock)
    stored = await store.save(picture(1))
    for step_s, expected in [(10, START_S), (10, START_S), (15, START_S + 35), (10, START_S + 35)]:
        clock.time_s += step_s
        await store.load(stored.sha256, "png")
        assert (tmp_path / stored.name).stat().st_mtime == expected


async def test_start_fixes_modes_removes_orphans_and_leaves_foreign_files_alone(tmp_path: Path) -> None:
    store = make_store(tmp_path, Clock())
    stored = await store.save(picture(1))
    (tmp_path / stored.name).chmod(0o644)
    os.chmod(tmp_path, 0o755)
    orphan = tmp_path / f".{stored.name}.0123456789abcdef.tmp"
    young = tmp_path / f".{stored.name}.fedcba9876543210.tmp"
    foreign = [tmp_path / name for name in ("notes.txt", "0" * 63 + ".png", "0" * 64 + ".gif", ".hidden.tmp")]
    for path in [orphan, young, *foreign]:
        path.write_bytes(b"x")
        os.utime(path, (START_S - 3600, START_S - 3600))
    os.utime(young, (START_S - 1, START_S - 1))
    (tmp_path / ("1" * 64 + ".png")).symlink_to(tmp_path / "notes.txt")
    (tmp_path / ("2" * 64 + ".png")).mkdir()

    again = await load_image_store(
        tmp_path, ttl_s=TTL_S, max_item_bytes=1000, max_total_bytes=1000, limiter=trio.CapacityLimiter(1), now=Clock()
    )
    assert again.statistics().items == 1
    assert stat.S_IMODE((tmp_path / stored.name).stat().st_mode) == 0o600
    assert stat.S_IMODE(os.stat(tmp_path).st_mode) == 0o700
    assert not orphan.exists()
    assert young.exists()
    assert all(path.exists() for path in foreign)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
async def test_file_of_another_user_is_not_adopted(tmp_path: Path) -> None:
    store = make_store(tmp_path, Clock())
    stored = await store.save(picture(1))
    os.chown(tmp_path / stored.name, 12345, 12345)
    again = make_store(tmp_path, Clock())
    await again.scan()
    assert again.statistics().items == 0


async def test_sweeper_sweeps_now_and_then_again(
    tmp_path: Path, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    class Counting(ImageStore):
        sweeps = 0

        async def sweep(self) -> None:
            self.sweeps += 1
            await trio.lowlevel.checkpoint()

    limiter = trio.CapacityLimiter(1)
    store = Counting(tmp_path, ttl_s=1, max_item_bytes=1, max_total_bytes=1, limiter=limiter)
    await nursery.start(run_sweeper, store, 60)
    await trio.sleep(1)
    assert store.sweeps == 1
    await trio.sleep(120)
    assert store.sweeps == 3
    nursery.cancel_scope.cancel()


async def test_sweep_removes_old_orphans_only(tmp_path: Path) -> None:
    store = make_store(tmp_path, Clock())
    for number, age_s in enumerate((61, 59, -61)):
        orphan = tmp_path / f".{'0' * 64}.png.{number:016x}.tmp"
        orphan.write_bytes(b"x")
        os.utime(orphan, (START_S - age_s, START_S - age_s))
    await store.sweep()
    assert names_in(tmp_path) == [f".{'0' * 64}.png.{1:016x}.tmp"]


async def test_sweep_that_fails_is_counted_and_the_next_one_succeeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_args: object) -> tuple[str, ...]:
        raise OSError(errno.EIO, "I/O error")

    clock = Clock()
    store = make_store(tmp_path, clock)
    stored = await store.save(picture(1))
    clock.time_s += TTL_S + 1
    with monkeypatch.context() as patch:
        patch.setattr(imagefiles, "sweep_files", fail)
        await store.sweep()
    assert store.statistics().failures == 1
    assert await store.load(stored.sha256, "png") is None
    await store.sweep()
    assert_consistent(store, tmp_path)
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("expired", [True, False])
async def test_picture_that_cannot_be_removed_stays_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expired: bool
) -> None:
    def refuse(_path: Path, missing_ok: bool = False) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    clock = Clock()
    store = make_store(tmp_path, clock, max_total_bytes=100)
    await store.save(picture(1))
    clock.time_s += TTL_S + 1 if expired else 0
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        await store.sweep()
        await store.save(picture(2))
    assert store.statistics().items == 2
    assert store.statistics().expired == store.statistics().evictions == 0
    assert_consistent(store, tmp_path)
    await store.sweep()
    assert store.statistics().items == 1
    assert_consistent(store, tmp_path)
