"""read_file and write_file: what they answer, and what is left when their caller leaves at any moment."""

import errno
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance.storage.atomic import Write
from appliance.toolbus.base import Tool
from appliance.toolbus.builtin import read_file, write_file
from appliance.toolbus.files import DISK_S
from tests.storage.support import Disk, names_in
from tests.toolbus.environments import fields, make_environment, refused

GRACE_S = 10  # for a thread that is to end


@pytest.fixture
def root(tmp_path: Path) -> Path:
    directory = tmp_path / "root"
    directory.mkdir()
    return directory


def reader(root: Path, **settings: Any) -> Tool:
    return read_file.make(make_environment(tools_fs_roots=(root,), **settings))


def writer(root: Path, write: Write = os.write, **settings: Any) -> Tool:
    return write_file.make(make_environment(tools_fs_roots=(root,), **settings), write=write)


async def test_text_is_read(root: Path) -> None:
    (root / "sub").mkdir()
    (root / "sub" / "a.txt").write_text("Grüße\n")
    outcome = await reader(root).run({"path": "./sub/a.txt"})
    assert outcome.fields == {"path": "sub/a.txt", "truncated": False, "content": "Grüße\n"}
    assert outcome.io_bytes == 8


async def test_paths_outside_of_the_first_root_are_shown_in_full(root: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "a.txt").write_text("there")
    (root / "a.txt").write_text("here")
    tool = read_file.make(make_environment(tools_fs_roots=(root, other)))
    assert (await fields(tool, {"path": "a.txt"}))["content"] == "here"
    answer = await fields(tool, {"path": f"{other}/a.txt"})
    assert answer == {"path": f"{other}/a.txt", "truncated": False, "content": "there"}
    assert (await fields(tool, {"path": f"{root}/a.txt"}))["path"] == "a.txt"


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(max_size=30), max_bytes=st.integers(0, 40))
def test_long_text_is_cut_between_characters(tmp_path: Path, text: str, max_bytes: int) -> None:
    (tmp_path / "a.txt").write_bytes(text.encode())
    answer = trio.run(fields, reader(tmp_path, tools_fs_max_bytes=max_bytes), {"path": "a.txt"})
    size = len(text.encode())
    assert answer["truncated"] is (size > max_bytes)
    assert text.startswith(answer["content"])
    assert max_bytes - 3 <= len(answer["content"].encode()) <= max_bytes or answer["content"] == text


@pytest.mark.parametrize("data", [b"\x89PNG\r\n\x1a\n", b"caf\xe9", b"ok \xe2\x98", b"\xed\xa0\x80", b"\xff\xfea\0"])
async def test_what_is_no_utf8_is_said_to_be_no_text(root: Path, data: bytes) -> None:
    (root / "a").write_bytes(data)
    assert (await refused(reader(root), {"path": "a"})).kind == "not_text"


async def test_text_is_written_and_read_back(root: Path) -> None:
    outcome = await writer(root).run({"path": "./a.txt", "content": "Grüße\n"})
    assert outcome.fields == {"path": "a.txt", "bytes_written": 8, "replaced": False}
    assert outcome.io_bytes == 8
    assert (await fields(writer(root), {"path": "a.txt", "content": ""}))["replaced"] is True
    assert (await fields(reader(root), {"path": "a.txt"}))["content"] == ""
    assert names_in(root) == ["a.txt"]


async def test_content_has_a_cap_in_bytes(root: Path) -> None:
    tool = writer(root, tools_fs_max_bytes=4)
    assert (await refused(tool, {"path": "a", "content": "ééé"})).kind == "too_large"
    await tool.run({"path": "a", "content": "éé"})
    assert names_in(root) == ["a"]


async def test_content_that_no_file_can_hold_is_refused(root: Path) -> None:
    assert (await refused(writer(root), {"path": "a", "content": "\ud800"})).kind == "not_text"
    assert names_in(root) == []


@pytest.mark.parametrize("make", [read_file.make, write_file.make])
@pytest.mark.parametrize("path", ["../a", "/etc/passwd", "a/../../b", "a\0"])
async def test_paths_out_are_refused(root: Path, make: Callable[..., Tool], path: str) -> None:
    tool = make(make_environment(tools_fs_roots=(root,)))
    assert (await refused(tool, {"path": path, "content": "x"})).kind in ("invalid_path", "path_not_allowed")


@pytest.mark.parametrize("make", [read_file.make, write_file.make])
async def test_without_roots_the_setting_is_named(make: Callable[..., Tool]) -> None:
    failure = await refused(make(make_environment()), {"path": "a", "content": "x"})
    assert (failure.kind, "TOOLS_FS_ROOTS" in failure.message) == ("no_roots", True)


async def test_full_disk_is_said_and_leaves_the_old_file(root: Path) -> None:
    (root / "a").write_text("old")
    disk = Disk()
    disk.error = errno.ENOSPC
    tool = writer(root, disk.write)
    assert (await refused(tool, {"path": "a", "content": "x" * 100})).kind == "storage_full"
    assert (root / "a").read_text() == "old"
    disk.free()
    await tool.run({"path": "a", "content": "new"})
    assert names_in(root) == ["a"]


def test_write_file_has_effects_and_read_file_none(root: Path) -> None:
    assert writer(root).side_effects
    assert not reader(root).side_effects


# Leaving. A thread cannot be stopped: what it may still do afterwards is what counts.


class HungDisk:
    """A disk that takes what it is given and says nothing until it is let go on."""

    def __init__(self) -> None:
        self.reached = trio.Event()
        self.go_on = threading.Event()
        self._token = trio.lowlevel.current_trio_token()

    def write(self, file: int, data: memoryview) -> int:
        self.hang()
        return os.write(file, data)

    def hang(self) -> None:
        self._token.run_sync_soon(self.reached.set)
        self.go_on.wait(GRACE_S)


async def run_until_cancelled(tool: Tool, arguments: dict[str, str], ready: trio.Event | None = None) -> None:
    """Start the tool, wait until it stands where it is to be left, and leave."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(tool.run, arguments)
        if ready is not None:
            await ready.wait()
        else:
            await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()


async def until_idle(limiter: trio.CapacityLimiter, threads: int) -> None:
    """Wait for abandoned threads: each holds its token as long as it runs."""
    with trio.fail_after(GRACE_S):
        for number in range(threads):
            await limiter.acquire_on_behalf_of(number)
    for number in range(threads):
        limiter.release_on_behalf_of(number)


@pytest.mark.parametrize("make", [read_file.make, write_file.make])
async def test_leaving_while_waiting_for_a_thread_does_nothing(root: Path, make: Callable[..., Tool]) -> None:
    environment = make_environment(tools_fs_roots=(root,), files=1)
    async with environment.files:
        await run_until_cancelled(make(environment), {"path": "a", "content": "x"})
    assert names_in(root) == []
    assert environment.files.borrowed_tokens == 0


async def test_write_left_in_the_middle_never_shows(root: Path) -> None:
    (root / "a").write_text("old")
    environment = make_environment(tools_fs_roots=(root,), files=1)
    disk = HungDisk()
    await run_until_cancelled(
        write_file.make(environment, write=disk.write), {"path": "a", "content": "new"}, disk.reached
    )
    assert environment.files.borrowed_tokens == 1, "the thread still hangs"
    disk.go_on.set()
    await until_idle(environment.files, 1)
    assert (root / "a").read_text() == "old"
    assert names_in(root) == ["a"]


@contextmanager
def hanging(monkeypatch: pytest.MonkeyPatch, name: str) -> Iterator[HungDisk]:
    """Let the system call of this name hang, once, after it was made."""
    disk = HungDisk()
    real = getattr(os, name)

    def call_then_hang(*arguments: Any, **named: Any) -> Any:
        result = real(*arguments, **named)
        disk.hang()
        return result

    monkeypatch.setattr(os, name, call_then_hang)
    try:
        yield disk
    finally:
        monkeypatch.undo()


async def test_write_left_after_it_shows_is_whole(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "a").write_text("old")
    environment = make_environment(tools_fs_roots=(root,), files=1)
    with hanging(monkeypatch, "rename") as disk:
        await run_until_cancelled(write_file.make(environment), {"path": "a", "content": "new"}, disk.reached)
        assert (root / "a").read_text() == "new"
        disk.go_on.set()
        await until_idle(environment.files, 1)
    assert (root / "a").read_text() == "new"
    assert names_in(root) == ["a"]


async def test_reading_can_be_left_while_the_disk_hangs(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "a").write_text("content")
    environment = make_environment(tools_fs_roots=(root,), files=1)
    with hanging(monkeypatch, "read") as disk:
        await run_until_cancelled(read_file.make(environment), {"path": "a"}, disk.reached)
        disk.go_on.set()
        await until_idle(environment.files, 1)


@pytest.mark.parametrize("shows", [False, True])
async def test_hung_disk_ends_a_write_and_says_what_is_known(
    root: Path, shows: bool, monkeypatch: pytest.MonkeyPatch, mock_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    environment = make_environment(tools_fs_roots=(root,), files=1)
    with hanging(monkeypatch, "rename" if shows else "write") as disk:
        tool = write_file.make(environment, write=os.write)

        async def jump() -> None:
            await disk.reached.wait()
            mock_clock.jump(DISK_S)

        nursery.start_soon(jump)
        failure = await refused(tool, {"path": "a", "content": "new"})
        assert failure.kind == "timeout"
        assert ("nothing was written" in failure.message) is not shows
        disk.go_on.set()
        await until_idle(environment.files, 1)
    assert names_in(root) == (["a"] if shows else [])


async def test_hung_disk_ends_a_read(
    root: Path, monkeypatch: pytest.MonkeyPatch, mock_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    (root / "a").write_text("content")
    with hanging(monkeypatch, "read") as disk:

        async def jump() -> None:
            await disk.reached.wait()
            mock_clock.jump(DISK_S)

        nursery.start_soon(jump)
        assert (await refused(reader(root), {"path": "a"})).kind == "timeout"
        disk.go_on.set()
