"""Records in files of their own: whole or not there, one chain, and the oldest removed beyond the cap."""

import json
import os
from pathlib import Path

import pytest

from appliance.protocol.errors import StorageFull
from appliance.storage.chain import GENESIS, Link, make_draft, seal
from appliance.storage.record_files import BLOCK_BYTES, RecordFiles, list_files, load_file, read_file
from appliance.storage.record_parts import Entry, LogInUse
from appliance.storage.segments import closed_path
from tests.storage.record_support import append_in_turn, append_many, assert_found, assert_whole, id_of, running
from tests.storage.support import Disk, names_in

HEAD = ".records.head"


class Writer:
    """Files with the head that their writer keeps."""

    def __init__(self, directory: Path, *, total_max_bytes: int = 0, disk: Disk | None = None) -> None:
        self.files = RecordFiles(directory, total_max_bytes=total_max_bytes, write=(disk or Disk()).write)
        self.head = self.files.open()

    def append(self, *numbers: int, sync: bool = False) -> None:
        entries, head = [], self.head
        for number in numbers:
            sealed = seal(make_draft({"replay_id": id_of(number)}), head)
            head = sealed.link
            entries.append(Entry(id_of(number), sealed.line, head))
        self.files.append(entries, sync=sync)
        self.head = head


def links_in(directory: Path) -> list[Link]:
    found = [load_file(directory / file.name) for file in list_files(directory)]
    return sorted((record.link for record in found), key=lambda link: link.seq)


@pytest.mark.parametrize("sync", [True, False])
def test_each_record_is_a_file_and_the_chain_goes_on(tmp_path: Path, sync: bool) -> None:
    writer = Writer(tmp_path)
    assert writer.head == GENESIS
    writer.append(1, 2, sync=sync)
    writer.files.sync()
    writer.files.close()
    again = Writer(tmp_path)
    assert again.head == writer.head
    again.append(3)
    assert [link.seq for link in links_in(tmp_path)] == [1, 2, 3]
    record = read_file(tmp_path, id_of(3))
    assert record is not None
    assert record.prev == writer.head.hash
    assert (tmp_path / f"{id_of(3)}.json").read_bytes() == record.line + b"\n"


@pytest.mark.parametrize("written", [0, 1, 2, 3])
def test_process_that_died_in_a_batch_has_the_records_that_were_whole(tmp_path: Path, written: int) -> None:
    writer = Writer(tmp_path)
    writer.append(1)
    writer.append(2, 3, 4)
    writer.files.close()
    for number in range(2 + written, 5):
        (tmp_path / f"{id_of(number)}.json").unlink()
    (tmp_path / f".{id_of(4)}.json.{'0' * 16}.tmp").write_bytes(b"half")
    again = Writer(tmp_path)
    assert again.head.seq == 1 + written
    assert not [name for name in names_in(tmp_path) if name.endswith(".tmp")]


@pytest.mark.parametrize("note", [None, b"", b"{", b"[]", b'{"before":[0],"records":[]}'])
def test_note_of_the_last_record_is_a_cache(tmp_path: Path, note: bytes | None) -> None:
    writer = Writer(tmp_path)
    writer.append(1, 2, 3)
    writer.files.close()
    (tmp_path / HEAD).unlink()
    if note is not None:
        (tmp_path / HEAD).write_bytes(note)
    (tmp_path / f"{id_of(9)}.json").write_bytes(b"damaged")
    assert Writer(tmp_path).head == writer.head


def test_failed_batch_leaves_no_file(tmp_path: Path) -> None:
    class FullAfterTwo(Disk):
        def write(self, file: int, data: memoryview) -> int:
            if b"replay_id" in bytes(data):
                self.writes += 1
                if self.writes > 3:
                    self.fill()
            return super().write(file, data)

    disk = FullAfterTwo()
    writer = Writer(tmp_path, disk=disk)
    writer.append(1)
    with pytest.raises(OSError, match="No space"):
        writer.append(2, 3, 4, 5)
    assert [link.seq for link in links_in(tmp_path)] == [1]
    disk.free()
    disk.writes = -10
    writer.files.close()
    again = Writer(tmp_path, disk=disk)
    assert again.head == writer.head
    again.append(6)
    assert [link.seq for link in links_in(tmp_path)] == [1, 2]


def test_cap_counts_blocks_and_removes_the_oldest(tmp_path: Path) -> None:
    writer = Writer(tmp_path, total_max_bytes=5 * BLOCK_BYTES)
    for number in range(1, 21):
        writer.append(number)
        os.utime(tmp_path / f"{id_of(number)}.json", ns=(number, number))
        assert len(list(list_files(tmp_path))) <= 5
    assert [link.seq for link in links_in(tmp_path)] == [16, 17, 18, 19, 20]
    assert writer.files.files_removed == 15
    writer.files.close()
    Writer(tmp_path, total_max_bytes=2 * BLOCK_BYTES)
    assert [link.seq for link in links_in(tmp_path)] == [19, 20]


def test_one_process_at_a_time_writes_a_directory(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "new")
    with pytest.raises(LogInUse):
        Writer(tmp_path / "new")
    writer.files.close()
    Writer(tmp_path / "new")


def test_file_under_another_ones_name_a_link_or_a_damaged_one_is_not_served(tmp_path: Path) -> None:
    writer = Writer(tmp_path)
    writer.append(1, 2)
    path = tmp_path / f"{id_of(1)}.json"
    (tmp_path / f"{id_of(3)}.json").symlink_to(path)
    with pytest.raises(OSError):
        read_file(tmp_path, id_of(3))
    path.write_bytes(path.read_bytes().replace(b'"seq":1', b'"seq":2'))
    assert read_file(tmp_path, id_of(1)) is None
    assert read_file(tmp_path, "../" + id_of(2)) is None


async def test_log_of_files_alone_has_no_journal_and_no_index(tmp_path: Path) -> None:
    path, directory = tmp_path / "invocations.jsonl", tmp_path / "files"
    async with running(path, mode="per_invocation", directory=directory) as records:
        kept = await append_many(records, range(20), durable=True)
        kept |= await append_many(records, range(20, 400))
        assert records._lookup._recent == {}
        await assert_found(records, kept)
        assert await records.read(id_of(999)) is None
    assert names_in(tmp_path) == ["files"]
    assert len(list(list_files(directory))) == 400


async def test_file_that_holds_another_record_is_not_served(tmp_path: Path) -> None:
    async with running(tmp_path / "invocations.jsonl", mode="per_invocation") as records:
        await append_many(records, range(1))
    os.rename(tmp_path / f"{id_of(0)}.json", tmp_path / f"{id_of(1)}.json")
    async with running(tmp_path / "invocations.jsonl", mode="per_invocation") as records:
        assert await records.read(id_of(1)) is None


async def test_both_places_hold_the_same_bytes(tmp_path: Path) -> None:
    path = tmp_path / "invocations.jsonl"
    async with running(path, mode="both", max_bytes=1000) as records:
        kept = await append_in_turn(records, range(12))
        await assert_found(records, kept)
    for record_id, line in kept.items():
        assert (tmp_path / f"{record_id}.json").read_bytes() == line + b"\n"
    assert closed_path(path, 1).exists()
    assert_whole(path, 12)


async def test_record_whose_file_cannot_be_written_is_not_in_the_journal_either(tmp_path: Path) -> None:
    path, directory = tmp_path / "invocations.jsonl", tmp_path / "files"
    async with running(path, mode="both", directory=directory) as records:
        kept = await append_many(records, range(3))
        moved = directory.rename(tmp_path / "moved")
        directory.touch()
        with pytest.raises(StorageFull):
            await records.append(id_of(5), {}, durable=False)
        assert await records.read(id_of(5)) is None
        directory.unlink()
        moved.rename(directory)
        kept |= await append_many(records, range(6, 9))
        await assert_found(records, kept)
    assert_whole(path, 6)


async def test_what_another_mode_wrote_is_still_found(tmp_path: Path) -> None:
    path, kept = tmp_path / "invocations.jsonl", {}
    for number, mode in enumerate(("ndjson", "per_invocation", "both", "per_invocation", "ndjson")):
        async with running(path, mode=mode) as records:
            kept |= await append_many(records, range(10 * number, 10 * number + 10))
            await assert_found(records, kept)


async def test_cap_of_both_is_shared(tmp_path: Path) -> None:
    async with running(tmp_path / "invocations.jsonl", mode="both", total_max_bytes=100_000) as records:
        await append_in_turn(records, range(60), filler="x" * 1000)
        assert records.statistics().removed > 0
    assert sum(file.size for file in list_files(tmp_path)) <= 50_000
    assert json.loads((tmp_path / HEAD).read_bytes())["records"][-1][0] == id_of(59)
