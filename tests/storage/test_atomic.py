"""Atomic files: whole or not at all."""

import errno
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.storage import atomic
from appliance.storage.atomic import UnsafePath, ensure_private_dir, is_temporary, write_atomic
from tests.storage.support import Disk, names_in


@pytest.mark.parametrize("durable", [True, False])
def test_file_is_written_with_its_mode_whatever_the_umask(tmp_path: Path, durable: bool) -> None:
    before = os.umask(0o277)
    try:
        write_atomic(tmp_path / "a", b"content", mode=0o640, durable=durable)
    finally:
        os.umask(before)
    assert (tmp_path / "a").read_bytes() == b"content"
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640
    assert names_in(tmp_path) == ["a"]


def test_short_writes_are_continued(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a", b"0123456789" * 10, durable=False, write=lambda file, data: os.write(file, data[:7]))
    assert (tmp_path / "a").read_bytes() == b"0123456789" * 10


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, number: int) -> None:
    write_atomic(tmp_path / "a", b"old", durable=True)
    disk = Disk()
    disk.error = number
    with pytest.raises(OSError) as caught:
        write_atomic(tmp_path / "a", b"new content", durable=True, write=disk.write)
    assert caught.value.errno == number
    assert (tmp_path / "a").read_bytes() == b"old"
    assert names_in(tmp_path) == ["a"]


def test_failed_fsync_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_file: int) -> None:
        raise OSError(errno.EIO, "I/O error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="I/O error"):
        write_atomic(tmp_path / "a", b"content", durable=True)
    assert names_in(tmp_path) == []


def test_durable_file_is_synced_before_its_name_and_the_name_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[bool, list[str]]] = []
    real_fsync = os.fsync

    def spy(file: int) -> None:
        synced.append((stat.S_ISDIR(os.fstat(file).st_mode), [n for n in names_in(tmp_path) if not is_temporary(n)]))
        real_fsync(file)

    monkeypatch.setattr(os, "fsync", spy)
    write_atomic(tmp_path / "a", b"content", durable=True)
    assert synced == [(False, []), (True, ["a"])]


def test_descriptors_are_closed_on_every_way_out(tmp_path: Path) -> None:
    disk = Disk()
    disk.fill()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        write_atomic(tmp_path / "a", b"content", durable=True)
        with pytest.raises(OSError):
            write_atomic(tmp_path / "a", b"content", durable=True, write=disk.write)
    assert len(os.listdir("/proc/self/fd")) == before


def test_temporary_file_is_never_one_that_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atomic.secrets, "token_hex", lambda _bytes: "0123456789abcdef")
    (tmp_path / ".a.0123456789abcdef.tmp").write_bytes(b"planted")
    with pytest.raises(FileExistsError):
        write_atomic(tmp_path / "a", b"content", durable=False)
    assert not (tmp_path / "a").exists()


def test_link_under_the_name_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"precious")
    (tmp_path / "a").symlink_to(tmp_path / "target")
    write_atomic(tmp_path / "a", b"content", durable=False)
    assert (tmp_path / "target").read_bytes() == b"precious"
    assert not (tmp_path / "a").is_symlink()


@given(st.from_regex(r"[a-z0-9.]{1,80}", fullmatch=True))
def test_names_of_files_are_not_taken_for_orphans(name: str) -> None:
    assert not is_temporary(name) or (name.startswith(".") and name.endswith(".tmp"))


def test_names_of_unfinished_files_are_known(tmp_path: Path) -> None:
    seen: list[str] = []

    def write(file: int, data: memoryview) -> int:
        seen.extend(names_in(tmp_path))
        return os.write(file, data)

    write_atomic(tmp_path / "a.png", b"content", durable=False, write=write)
    assert seen
    assert is_temporary(seen[0])


def test_private_directory_is_made_with_its_parents_and_tightened(tmp_path: Path) -> None:
    ensure_private_dir(tmp_path / "one" / "two")
    assert stat.S_IMODE((tmp_path / "one" / "two").stat().st_mode) == 0o700
    (tmp_path / "one").chmod(0o777)
    ensure_private_dir(tmp_path / "one")
    assert stat.S_IMODE((tmp_path / "one").stat().st_mode) == 0o700


def test_symbolic_link_is_refused_as_a_private_directory(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(UnsafePath, match="symbolic link: configure"):
        ensure_private_dir(tmp_path / "link")


def test_file_is_refused_as_a_private_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UnsafePath, match="not a directory"):
        ensure_private_dir(tmp_path / "file")


def test_directory_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    somebody = os.geteuid() + 1
    monkeypatch.setattr(atomic.os, "geteuid", lambda: somebody)
    with pytest.raises(UnsafePath, match="belongs to another user"):
        ensure_private_dir(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a link that is root's")
def test_link_that_root_made_for_a_service_is_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    service_uid = 12345
    (tmp_path / "private").mkdir(mode=0o700)
    os.chown(tmp_path / "private", service_uid, service_uid)
    (tmp_path / "state").symlink_to(tmp_path / "private")
    monkeypatch.setattr(atomic.os, "geteuid", lambda: service_uid)
    ensure_private_dir(tmp_path / "state")
    os.chown(tmp_path / "state", service_uid, service_uid, follow_symlinks=False)
    with pytest.raises(UnsafePath, match="symbolic link"):
        ensure_private_dir(tmp_path / "state")
