"""File tools on the real machine: what reaches the kernel's open, and a disk that is full."""

import os
import re
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.toolbus.base import Tool
from appliance.toolbus.builtin import read_file, write_file
from tests.fakes.disks import SIZE_BYTES, small_disk
from tests.real.debian import NotAvailable, find_strace
from tests.storage.support import names_in
from tests.toolbus.environments import make_environment, refused

__all__ = ["small_disk"]

pytestmark = pytest.mark.real

CHILD = """
import json, sys, trio
from pathlib import Path
from appliance.toolbus.base import ToolFailed
from appliance.toolbus.builtin import read_file, write_file
from tests.toolbus.environments import make_environment

async def main(root, *paths):
    environment = make_environment(tools_fs_roots=(Path(root),))
    for make in (read_file.make, write_file.make):
        for path in paths:
            try:
                await make(environment).run({"path": path, "content": "changed"})
                print("ran", json.dumps(path))
            except ToolFailed as failure:
                print(failure.kind, json.dumps(path))

print("started", flush=True)
trio.run(main, *sys.argv[1:])
"""


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Path]:
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    (root / "plain.txt").write_text("plain")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text("secret")
    (root / "link").symlink_to("../outside/secret")
    (root / "absolute").symlink_to(tmp_path / "outside" / "secret")
    (root / "sub" / "link_dir").symlink_to(tmp_path / "outside")
    os.mkfifo(root / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(root / "socket"))
        if os.geteuid() == 0:
            os.mknod(root / "device", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        yield root


def test_refused_path_never_reaches_open(tree: Path, tmp_path: Path) -> None:
    try:
        strace = find_strace()
    except NotAvailable as reason:
        pytest.skip(str(reason))
    outside = tmp_path / "outside"
    refused_paths = [
        "link", "absolute", "sub/link_dir/secret", "pipe", "socket", "device", "../outside/secret", "sub/../../outside/secret",
        str(outside / "secret"), "/etc/shadow", "sub", "plain.txt/x", "/proc/self/environ",
    ]  # fmt: skip
    log = tmp_path / "calls"
    trace = ["-f", "-y", "-qq", "-s", "400", "-e", "trace=open,openat,openat2,creat,write"]
    command = [str(strace), *trace, "-o", str(log)]
    arguments = [str(tree), *refused_paths, "plain.txt"]
    ran = subprocess.run(
        [*command, sys.executable, "-c", CHILD, *arguments],
        capture_output=True, text=True, timeout=120, check=False, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    if "PTRACE" in ran.stderr or "ptrace" in ran.stderr:
        pytest.skip("this machine does not let programs be traced")
    assert ran.returncode == 0, ran.stderr
    assert [line for line in ran.stdout.splitlines() if line.startswith("ran")] == ['ran "plain.txt"'] * 2
    calls = log.read_text().split('"started', 1)[1].splitlines()
    opened = {match[1]: match[0] for call in calls if (match := re.search(r'open\w*\([^"]*"([^"]*)".*', call))}
    assert {str(tree), "sub", "plain.txt"} <= opened.keys(), "the trace shows what is opened"
    never = {"link", "absolute", "secret", "pipe", "socket", "device", "shadow", "environ"}
    assert not [name for name in opened if name.rpartition("/")[2] in never or str(outside) in name]
    assert "O_NOFOLLOW" in opened["link_dir"]
    assert "ENOTDIR" in opened["link_dir"]
    assert (outside / "secret").read_text() == "secret"


def make_writer(directory: Path) -> Tool:
    return write_file.make(make_environment(tools_fs_roots=(directory,), tools_fs_max_bytes=10 * SIZE_BYTES))


async def test_full_disk_leaves_the_old_file_and_recovers(small_disk: Path) -> None:
    tool = make_writer(small_disk)
    await tool.run({"path": "a.txt", "content": "old"})
    (small_disk / "filler").write_bytes(b"x" * (SIZE_BYTES - 64 * 1024))
    for path in ("a.txt", "new.txt"):
        assert (await refused(tool, {"path": path, "content": "x" * 200_000})).kind == "storage_full"
    assert names_in(small_disk) == ["a.txt", "filler"]
    assert (small_disk / "a.txt").read_text() == "old"
    (small_disk / "filler").unlink()
    await tool.run({"path": "a.txt", "content": "x" * 200_000})
    assert (small_disk / "a.txt").stat().st_size == 200_000


async def test_read_only_disk_is_said_and_can_be_read(small_disk: Path) -> None:
    tool = make_writer(small_disk)
    await tool.run({"path": "a.txt", "content": "old"})
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)  # noqa: ASYNC221 -- a moment, in a test
    for path in ("a.txt", "new.txt"):
        assert (await refused(tool, {"path": path, "content": "x"})).kind == "permission_denied"
    reader = read_file.make(make_environment(tools_fs_roots=(small_disk,)))
    assert (await reader.run({"path": "a.txt"})).fields["content"] == "old"
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)  # noqa: ASYNC221 -- as above
