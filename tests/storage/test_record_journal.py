"""The journal of records: torn tails set aside, segments closed and removed, and one chain through all of them."""

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.storage.chain import GENESIS, Link, make_draft, seal
from appliance.storage.record_journal import RecordJournal
from appliance.storage.record_parts import Entry, LogInUse
from appliance.storage.segments import NOWHERE, Position, closed_path, find_end, list_closed
from tests.storage.record_support import assert_whole, id_of, verify_log
from tests.storage.support import Disk, names_in


class Writer:
    """A journal with the head that its writer keeps."""

    def __init__(self, path: Path, *, max_bytes: int = 0, total_max_bytes: int = 0, disk: Disk | None = None) -> None:
        write = (disk or Disk()).write
        self.journal = RecordJournal(path, max_bytes=max_bytes, total_max_bytes=total_max_bytes, write=write)
        self.head = self.journal.open()

    def append(self, *numbers: int, filler: int = 0, sync: bool = False) -> None:
        entries, head = [], self.head
        for number in numbers:
            sealed = seal(make_draft({"replay_id": id_of(number), "filler": "x" * filler}), head)
            head = sealed.link
            entries.append(Entry(id_of(number), sealed.line, head))
        self.journal.append(entries, sync=sync)
        self.head = head


def write_log(path: Path, *numbers: int) -> Link:
    writer = Writer(path)
    writer.append(*numbers)
    writer.journal.close()
    return writer.head


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "invocations.jsonl"


def torn_of(path: Path) -> bytes:
    torn = path.with_name(f"{path.name}.torn")
    return torn.read_bytes() if torn.exists() else b""


def test_new_log_begins_with_record_one(path: Path) -> None:
    writer = Writer(path)
    assert writer.head == GENESIS
    writer.append(1, 2)
    assert writer.journal.end == Position(1, path.stat().st_size)
    assert_whole(path, 2)


@pytest.mark.parametrize("torn", [b"{", b'{"n":1}', b"\0" * 5000, b"x" * 200_000, b"\n", b"bad\n", b"bad\nworse"])
def test_what_a_crash_left_is_set_aside_and_the_chain_goes_on(path: Path, torn: bytes) -> None:
    head = write_log(path, 1, 2, 3)
    good = path.read_bytes()
    path.write_bytes(good + torn)
    writer = Writer(path)
    assert writer.head == head
    assert path.read_bytes() == good
    assert torn_of(path) == torn.removesuffix(b"\n") + b"\n"
    assert writer.journal.torn_tails == 1
    writer.append(4)
    assert_whole(path, 4)


def test_torn_tails_of_several_crashes_are_all_kept(path: Path) -> None:
    for number in range(3):
        write_log(path, number)
        with path.open("ab") as file:
            file.write(b"torn %d" % number)
    Writer(path)
    assert torn_of(path) == b"torn 0\ntorn 1\ntorn 2\n"
    assert_whole(path, 3)


@settings(deadline=None)
@given(st.data())
def test_log_cut_at_any_byte_keeps_every_record_before_the_cut(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("cut") / "invocations.jsonl"
    write_log(path, 1, 2, 3)
    text = path.read_bytes()
    cut = data.draw(st.integers(0, len(text)))
    path.write_bytes(text[:cut])
    writer = Writer(path)
    kept = text[:cut].count(b"\n")
    assert writer.head.seq == kept
    writer.append(4, 5)
    assert_whole(path, kept + 2)


def test_file_of_another_format_is_set_aside_whole(path: Path) -> None:
    foreign = b'{"ts":1,"replay_id":"tool-1"}\n' * 1000
    path.write_bytes(foreign)
    assert Writer(path).head == GENESIS
    assert (path.read_bytes(), torn_of(path)) == (b"", foreign)


def test_full_file_is_closed_under_the_seq_of_its_first_record(path: Path) -> None:
    writer = Writer(path, max_bytes=600)
    for number in range(1, 8):
        writer.append(number)
    assert [segment.first_seq for segment in list_closed(path)] == [1, 3, 5]
    assert closed_path(path, 3).name == "invocations.000000000003.jsonl"
    assert all(segment.size <= 600 for segment in list_closed(path))
    assert writer.journal.end.segment == 7
    assert_whole(path, 7)


def test_chain_goes_on_when_the_process_died_between_closing_a_file_and_making_the_next(path: Path) -> None:
    head = write_log(path, 1, 2)
    path.rename(closed_path(path, 1))
    writer = Writer(path)
    assert (writer.head, writer.journal.end) == (head, Position(3, 0))
    writer.append(3)
    assert_whole(path, 3)


def test_closed_segment_with_a_bad_end_is_repaired_when_nothing_comes_after_it(path: Path) -> None:
    write_log(path, 1, 2)
    closed = closed_path(path, 1)
    path.rename(closed)
    closed_path(path, 3).write_bytes(b"nothing good\n")
    with closed.open("ab") as file:
        file.write(b"torn")
    writer = Writer(path)
    assert writer.head.seq == 2
    assert not closed_path(path, 3).exists()
    assert torn_of(path) == b"nothing good\ntorn\n"
    writer.append(3)
    assert_whole(path, 3)


def test_cap_holds_at_any_time_and_the_oldest_go_first(path: Path) -> None:
    writer = Writer(path, max_bytes=1_000_000, total_max_bytes=8000)
    for number in range(1, 60):
        writer.append(number, filler=100)
        assert path.stat().st_size + sum(segment.size for segment in list_closed(path)) <= 8000
    assert writer.journal.segments_removed > 0
    assert list_closed(path)[0].first_seq == writer.journal.oldest_segment > 1
    found = verify_log(path)
    assert found.flaw is None
    assert found.head == writer.head


def test_cap_that_was_lowered_is_kept_from_the_start_on(path: Path) -> None:
    writer = Writer(path, max_bytes=600)
    for number in range(1, 20):
        writer.append(number)
    writer.journal.close()
    lowered = Writer(path, total_max_bytes=2000)
    assert sum(segment.size for segment in list_closed(path)) <= 1500
    lowered.append(20)
    assert verify_log(path).flaw is None


def test_batch_larger_than_a_segment_is_written_whole(path: Path) -> None:
    writer = Writer(path, max_bytes=500)
    writer.append(*range(10))
    writer.append(11)
    assert [segment.first_seq for segment in list_closed(path)] == [1]
    assert_whole(path, 11)


def test_file_that_somebody_moved_away_is_begun_anew_and_the_chain_goes_on(path: Path) -> None:
    writer = Writer(path)
    writer.append(1, 2)
    moved = path.rename(path.with_name("moved"))
    writer.append(3)
    path.write_bytes(moved.read_bytes() + path.read_bytes())
    assert_whole(path, 3)


def test_file_that_somebody_put_in_place_is_not_written_to(path: Path) -> None:
    writer = Writer(path)
    writer.append(1)
    good = path.read_bytes()
    path.unlink()
    path.write_bytes(b"somebody's\n")
    for _ in range(2):
        with pytest.raises(FileExistsError, match="replaced"):
            writer.append(2)
    assert path.read_bytes() == b"somebody's\n"
    path.write_bytes(b"")
    writer.append(2)
    path.write_bytes(good + path.read_bytes())
    assert_whole(path, 2)


def test_full_file_is_on_the_disk_before_it_is_closed(path: Path) -> None:
    synced: list[int] = []

    def sync(_file: int) -> None:
        assert not closed_path(path, 1).exists()
        synced.append(path.stat().st_size)

    journal = RecordJournal(path, max_bytes=300, total_max_bytes=0, sync=sync)
    head = journal.open()
    for _ in range(2):
        sealed = seal(make_draft({"filler": "x" * 100}), head)
        head = sealed.link
        journal.append([Entry("", sealed.line, head)], sync=False)
    assert synced == [closed_path(path, 1).stat().st_size]


def test_closed_segment_is_never_written_over(path: Path) -> None:
    writer = Writer(path, max_bytes=300)
    writer.append(1)
    closed_path(path, 1).write_bytes(b"in the way")
    with pytest.raises(FileExistsError, match="in the way"):
        writer.append(2)
    closed_path(path, 1).unlink()
    writer.append(2)
    assert_whole(path, 2)


def test_last_append_can_be_taken_back(path: Path) -> None:
    writer = Writer(path, max_bytes=600)
    writer.append(1)
    before = writer.head
    for number in (2, 3):  # the second one begins a new segment
        writer.append(number)
        writer.journal.take_back()
        writer.head = before
        writer.append(number)
        before = writer.head
    assert_whole(path, 3)


def test_segment_that_begins_after_something_was_taken_back_has_its_true_name(path: Path) -> None:
    writer = Writer(path, max_bytes=1000)
    writer.append(1)
    before = writer.head
    writer.append(2, 3)
    writer.journal.take_back()
    writer.head = before
    writer.append(2, filler=900)
    writer.append(3, filler=900)
    assert [segment.first_seq for segment in list_closed(path)] == [1, 2]
    assert_whole(path, 3)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_failed_batch_leaves_no_part_of_itself(path: Path, number: int) -> None:
    disk = Disk()
    writer = Writer(path, disk=disk)
    writer.append(1)
    good = path.read_bytes()
    disk.error = number
    with pytest.raises(OSError) as caught:
        writer.append(2, 3)
    assert caught.value.errno == number
    assert path.read_bytes() == good


def test_one_process_at_a_time_writes_a_log(path: Path) -> None:
    writer = Writer(path)
    with pytest.raises(LogInUse):
        Writer(path)
    writer.journal.close()
    Writer(path)


def test_temporary_files_of_a_crash_are_swept_and_nobody_elses(path: Path) -> None:
    mine, other = f".{path.name}.{'0' * 16}.tmp", f".other.jsonl.{'0' * 16}.tmp"
    for name in (mine, other, "notes.tmp"):
        path.with_name(name).touch()
    Writer(path)
    assert set(names_in(path.parent)) == {other, "notes.tmp", path.name, f".{path.name}.lock"}


def test_probe_leaves_nothing_and_tells_of_a_full_disk(path: Path) -> None:
    disk = Disk()
    writer = Writer(path, disk=disk)
    before = names_in(path.parent)
    writer.journal.probe(100_000)
    disk.fill()
    with pytest.raises(OSError, match="No space"):
        writer.journal.probe(100_000)
    assert names_in(path.parent) == before


def test_descriptors_are_closed_on_every_way_out(path: Path) -> None:
    disk = Disk()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        writer = Writer(path, max_bytes=300, disk=disk)
        writer.append(1)
        disk.fill()
        with pytest.raises(OSError):
            writer.append(2)
        disk.free()
        writer.append(3)
        with pytest.raises(LogInUse):
            Writer(path)
        writer.journal.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_end_of_a_log_is_found_without_writing_it(path: Path) -> None:
    assert find_end(path) == NOWHERE
    writer = Writer(path, max_bytes=600)
    for number in range(1, 6):
        writer.append(number)
        assert find_end(path) == writer.journal.end
    path.unlink()
    assert find_end(path).segment == 3
