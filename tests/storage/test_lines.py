"""Lines appended to a file: whole, private, and turned over in time."""

import errno
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.storage.lines import append_lines
from tests.storage.support import Disk, names_in


def test_lines_are_appended_to_a_private_file_in_a_directory_that_is_made(tmp_path: Path) -> None:
    path = tmp_path / "new" / "requests.jsonl"
    append_lines(path, b"1\n2\n", 0)
    append_lines(path, b"3\n", 0)
    assert path.read_bytes() == b"1\n2\n3\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)
    append_lines(path, b"4\n", 0)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("tail", [b'{"a":', b"{}", b"\0\0\0\0"])
def test_torn_tail_is_completed_and_reported_once(tmp_path: Path, tail: bytes) -> None:
    path = tmp_path / "requests.jsonl"
    path.write_bytes(b"{}\n" + tail)
    assert append_lines(path, b"", 0).torn_tail
    assert not append_lines(path, b'{"b":1}\n', 0).torn_tail
    assert path.read_bytes() == b"{}\n" + tail + b'\n{"b":1}\n'


def test_full_file_is_turned_over_and_one_old_one_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    turned = [append_lines(path, b"%04d\n" % number, 10).turned_over for number in range(7)]
    assert turned == [False, False, True, False, True, False, True]
    assert path.read_bytes() == b"0006\n"
    assert (tmp_path / "requests.jsonl.1").read_bytes() == b"0004\n0005\n"
    assert names_in(tmp_path) == ["requests.jsonl", "requests.jsonl.1"]


def test_batch_larger_than_the_limit_is_written_and_nothing_is_turned_over_for_an_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    assert not append_lines(path, b"123456789012\n", 10).turned_over
    assert append_lines(path, b"123456789012\n", 10).turned_over


def test_file_that_somebody_moved_away_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "requests.jsonl"
    append_lines(path, b"1\n", 0)
    path.rename(tmp_path / "moved")
    append_lines(path, b"2\n", 0)
    assert path.read_bytes() == b"2\n"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_failed_batch_leaves_no_part_of_itself(tmp_path: Path, number: int) -> None:
    path, disk = tmp_path / "requests.jsonl", Disk()
    append_lines(path, b"1\n", 0)
    disk.error = number
    with pytest.raises(OSError) as caught:
        append_lines(path, b"2222\n3333\n", 0, disk.write)
    assert caught.value.errno == number
    assert path.read_bytes() == b"1\n"


def test_link_pipe_or_directory_is_refused_and_closed(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"precious\n")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    (tmp_path / "directory").mkdir()
    os.mkfifo(tmp_path / "pipe")
    before = len(os.listdir("/proc/self/fd"))
    for name in ("link", "directory", "pipe"):
        with pytest.raises(OSError):
            append_lines(tmp_path / name, b"1\n", 0)
    assert len(os.listdir("/proc/self/fd")) == before
    assert (tmp_path / "target").read_bytes() == b"precious\n"


def test_descriptors_are_closed_on_every_way_out(tmp_path: Path) -> None:
    path, disk = tmp_path / "requests.jsonl", Disk()
    disk.fill()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        append_lines(path, b"12345678\n", 10)
        with pytest.raises(OSError):
            append_lines(path, b"12345678\n", 10, disk.write)
    assert len(os.listdir("/proc/self/fd")) == before


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 12))))
def test_file_cut_anywhere_between_batches_spoils_no_line_of_another_batch(
    tmp_path_factory: pytest.TempPathFactory, batches: list[tuple[int, int]]
) -> None:
    path = tmp_path_factory.mktemp("cut") / "requests.jsonl"
    whole: set[bytes] = set()
    for number, (count, cut) in enumerate(batches):
        batch = [b"%d.%d" % (number, line) for line in range(count)]
        append_lines(path, b"".join(line + b"\n" for line in batch), 0)
        size_before_cut = path.stat().st_size
        os.truncate(path, max(0, size_before_cut - cut))
        kept = path.read_bytes().split(b"\n")[:-1]
        whole = {line for line in whole | set(batch) if line in kept}
    append_lines(path, b"", 0)
    assert whole <= set(path.read_bytes().split(b"\n"))
