"""Files below roots: links, kinds, races, leaks. Real directories, no tool around them."""

import errno
import os
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance.toolbus.base import ToolFailed
from appliance.toolbus.files import GivenUp, Turn, read_start, replace_file
from appliance.toolbus.paths import parse_place
from tests.storage.support import Disk, names_in
from tests.toolbus.environments import open_files

SECRET = b"what lies outside"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    directory = tmp_path / "root"
    (directory / "sub" / "deep").mkdir(parents=True)
    (directory / "a.txt").write_bytes(b"content of a")
    (directory / "sub" / "deep" / "b.txt").write_bytes(b"content of b")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(SECRET)
    return directory


def read(root: Path, path: str, max_bytes: int = 1000) -> bytes:
    return read_start(parse_place(path, [root]), max_bytes)[0]


def write(root: Path, path: str, data: bytes = b"new", turn: Turn | None = None) -> bool:
    return replace_file(parse_place(path, [root]), data, turn or Turn())


def kind_of(work: Callable[[], object]) -> str:
    before = open_files()
    with pytest.raises(ToolFailed) as caught:
        work()
    assert open_files() == before
    assert "/" not in caught.value.message
    return caught.value.kind


def test_files_are_read_wherever_they_lie_below_the_root(root: Path) -> None:
    before = open_files()
    assert read(root, "a.txt") == b"content of a"
    assert read(root, "sub/deep/b.txt") == b"content of b"
    assert read(root, str(root / "a.txt")) == b"content of a"
    assert open_files() == before


@pytest.mark.parametrize(
    ("max_bytes", "expected"),
    [(0, (b"", True)), (11, (b"content of ", True)), (12, (b"content of a", False)), (13, (b"content of a", False))],
)
def test_a_file_is_read_up_to_the_cap(root: Path, max_bytes: int, expected: tuple[bytes, bool]) -> None:
    assert read_start(parse_place("a.txt", [root]), max_bytes) == expected


LINKS = {
    "to a file outside": ("link", "../outside/secret", "link"),
    "to a file outside, absolute": ("link", "{outside}/secret", "link"),
    "to a file inside": ("link", "a.txt", "link"),
    "to a directory outside": ("link", "../outside", "link/secret"),
    "to a directory inside": ("link", "sub", "link/deep/b.txt"),
    "to the root": ("sub/link", "..", "sub/link/a.txt"),
    "to itself": ("link", "link", "link"),
    "to nothing": ("link", "nothing", "link"),
    "deep down": ("sub/deep/link", "../../../outside", "sub/deep/link/secret"),
    "to an open file": ("link", "/proc/self/fd", "link/0"),
    "to the root of the machine": ("link", "/proc/self/root", "link/etc/passwd"),
}


@pytest.mark.parametrize("name", LINKS)
@pytest.mark.parametrize("work", [read, write])
def test_no_symbolic_link_below_the_root_is_followed(
    root: Path, name: str, work: Callable[[Path, str], object]
) -> None:
    link, leads_to, path = LINKS[name]
    (root / link).symlink_to(leads_to.format(outside=root.parent / "outside"))
    assert kind_of(partial(work, root, path)) in ("path_not_allowed", "not_a_file")
    assert (root / link).is_symlink()
    assert (root.parent / "outside" / "secret").read_bytes() == SECRET
    assert names_in(root.parent / "outside") == ["secret"]


def test_links_above_the_root_are_the_operators(root: Path, tmp_path: Path) -> None:
    (tmp_path / "configured").symlink_to(root)
    assert read(tmp_path / "configured", "a.txt") == b"content of a"


@contextmanager
def make_special(path: Path, kind: str) -> Iterator[None]:
    with socket.socket(socket.AF_UNIX) as listener:
        if kind == "fifo":
            os.mkfifo(path)
        elif kind == "directory":
            path.mkdir()
        elif kind == "socket":
            listener.bind(str(path))
        elif os.geteuid() == 0:
            # The null device and the first disk's numbers: nothing opens them here.
            os.mknod(path, (stat.S_IFCHR if kind == "character device" else stat.S_IFBLK) | 0o666, os.makedev(1, 3))
        else:
            pytest.skip("making a device takes root")
        yield


SPECIAL = ["fifo", "directory", "socket", "character device", "block device"]


@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.parametrize("work", [read, write])
def test_what_is_no_regular_file_is_refused_without_waiting(
    root: Path, kind: str, work: Callable[[Path, str], object]
) -> None:
    with make_special(root / "x", kind):
        before = (root / "x").lstat().st_ino
        assert kind_of(partial(work, root, "x")) == "not_a_file"
        assert (root / "x").lstat().st_ino == before
        assert names_in(root) == ["a.txt", "sub", "x"]


@pytest.mark.parametrize("kind", ["fifo", "socket", "character device"])
def test_what_is_no_directory_is_not_walked_through(root: Path, kind: str) -> None:
    with make_special(root / "x", kind):
        assert kind_of(partial(read, root, "x/a")) == "path_not_allowed"


def on_open(monkeypatch: pytest.MonkeyPatch, act: Callable[[str], None]) -> None:
    """Do something right before each open, given the name that is opened."""
    real_open = os.open

    def act_then_open(path: str, flags: int, *rest: int, dir_fd: int | None = None) -> int:
        act(path)
        return real_open(path, flags, *rest, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", act_then_open)


@pytest.mark.parametrize("kind", [*SPECIAL, "link"])
@pytest.mark.parametrize("work", [read, write])
def test_what_is_refused_is_not_even_opened(
    root: Path, kind: str, work: Callable[[Path, str], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    if kind == "link":
        (root / "x").symlink_to("a.txt")
    with make_special(root / "x", kind) if kind != "link" else nullcontext():
        on_open(monkeypatch, opened.append)
        assert kind_of(partial(work, root, "x")) == "not_a_file"
    assert opened == [root]


@pytest.mark.parametrize(("to", "kind"), [("pipe", "not_a_file"), ("link", "path_not_allowed")])
@pytest.mark.parametrize("work", [read, write])
def test_a_file_exchanged_between_look_and_open_neither_blocks_nor_leaks(
    root: Path, to: str, kind: str, work: Callable[[Path, str], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    def exchange(name: str) -> None:
        if name != "a.txt":
            return
        (root / "a.txt").unlink()
        if to == "pipe":
            os.mkfifo(root / "a.txt")
        else:
            (root / "a.txt").symlink_to("../outside/secret")

    on_open(monkeypatch, exchange)
    assert kind_of(partial(work, root, "a.txt")) == kind


@pytest.mark.parametrize(
    ("path", "kind"),
    [("nothing", "not_found"), ("nothing/b", "not_found"), ("a.txt/b", "path_not_allowed"), ("sub", "not_a_file")],
)
def test_what_is_not_there_is_said(root: Path, path: str, kind: str) -> None:
    assert kind_of(partial(read, root, path)) == kind


def test_root_is_opened_by_its_path_when_it_is_used(root: Path) -> None:
    root.rename(root.parent / "old")
    assert kind_of(partial(read, root, "a.txt")) == "root_unavailable"
    root.mkdir()
    assert kind_of(partial(read, root, "a.txt")) == "not_found"
    (root / "a.txt").write_bytes(b"of the new root")
    assert read(root, "a.txt") == b"of the new root"


def test_files_of_proc_are_empty(tmp_path: Path) -> None:
    assert read(Path(f"/proc/{os.getpid()}"), "environ") == b""
    assert read(Path(f"/proc/{os.getpid()}"), "cmdline") == b""


def test_a_hard_link_is_replaced_by_name_and_never_written_through(root: Path) -> None:
    os.link(root.parent / "outside" / "secret", root / "hard")
    assert write(root, "hard", b"mine")
    assert (root / "hard").read_bytes() == b"mine"
    assert (root.parent / "outside" / "secret").read_bytes() == SECRET


def test_a_new_file_is_ours_alone_and_a_replaced_one_keeps_its_permissions(root: Path) -> None:
    umask = os.umask(0)
    try:
        assert not write(root, "new.txt")
        (root / "a.txt").chmod(0o4754)
        assert write(root, "a.txt")
    finally:
        os.umask(umask)
    assert stat.S_IMODE((root / "new.txt").stat().st_mode) == 0o600
    assert stat.S_IMODE((root / "a.txt").stat().st_mode) == 0o754, "never a bit that gives rights away"


def test_directories_are_not_made(root: Path) -> None:
    assert kind_of(partial(write, root, "new/a.txt")) == "not_found"
    assert names_in(root) == ["a.txt", "sub"]


@pytest.mark.parametrize("length", [200, 255])
def test_the_longest_names_can_be_written(root: Path, length: int) -> None:
    write(root, "x" * length)
    assert read(root, "x" * length) == b"new"


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, "storage_full"),
        (errno.EDQUOT, "storage_full"),
        (errno.EROFS, "permission_denied"),
        (errno.EIO, "io_error"),
    ],
)
def test_failing_disk_leaves_the_old_file_and_no_other(root: Path, number: int, kind: str) -> None:
    disk = Disk()
    disk.error = number
    for path in ("a.txt", "new.txt"):
        assert (
            kind_of(lambda path=path: replace_file(parse_place(path, [root]), b"x" * 100, Turn(), disk.write)) == kind
        )
    assert (root / "a.txt").read_bytes() == b"content of a"
    assert names_in(root) == ["a.txt", "sub"]


def test_write_whose_turn_was_taken_changes_nothing(root: Path) -> None:
    turn = Turn()
    assert turn.take()
    with pytest.raises(GivenUp):
        write(root, "a.txt", turn=turn)
    assert (root / "a.txt").read_bytes() == b"content of a"
    assert names_in(root) == ["a.txt", "sub"]


def test_write_takes_its_turn(root: Path) -> None:
    turn = Turn()
    write(root, "a.txt", turn=turn)
    assert not turn.take()


@contextmanager
def as_nobody(directory: Path) -> Iterator[None]:
    """Root may do everything: it steps down, and owns nothing but what it makes meanwhile."""
    if os.geteuid() != 0:
        yield
        return
    directory.chmod(0o777)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_permissions_count() -> None:
    with tempfile.TemporaryDirectory() as made, as_nobody(Path(made)):
        root = Path(made)
        (root / "closed").mkdir()
        write(root, "a.txt", b"content of a")
        (root / "a.txt").chmod(0o400)
        (root / "closed").chmod(0o500)
        assert kind_of(partial(write, root, "a.txt")) == "permission_denied", "a file that may not be written"
        assert kind_of(partial(write, root, "closed/new.txt")) == "permission_denied"
        (root / "a.txt").chmod(0o000)
        (root / "closed").chmod(0o000)
        assert kind_of(partial(read, root, "a.txt")) == "permission_denied"
        assert kind_of(partial(read, root, "closed/new.txt")) == "permission_denied"
        (root / "closed").chmod(0o700)


NAMES = st.sampled_from(["a", "b", "c"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
NODES = st.dictionaries(
    PATHS, st.sampled_from(["file", "dir", "link out", "link up", "link in", "fifo", "hard"]), max_size=8
)


def plant(root: Path, nodes: dict[str, str]) -> None:
    outside = root.parent / "outside"
    for path, kind in sorted(
        nodes.items(), key=lambda planted: ("link" in planted[1], -planted[0].count("/"))
    ):  # nothing is planted through one
        node = root / path
        try:
            node.parent.mkdir(parents=True, exist_ok=True)
            if kind == "file":
                node.write_bytes(b"inside")
            elif kind == "dir":
                node.mkdir()
            elif kind == "fifo":
                os.mkfifo(node)
            elif kind == "hard":
                os.link(root / "seed", node)
            else:
                node.symlink_to({"link out": outside, "link up": Path(".."), "link in": root}[kind])
        except OSError:
            continue  # something else has the name


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(
    nodes=NODES,
    paths=st.lists(
        st.one_of(PATHS, PATHS.map(lambda path: path + "/secret"), PATHS.map(lambda path: path + "/outside/secret")),
        max_size=8,
    ),
)
def test_in_any_tree_only_plain_files_of_it_are_read_or_written(
    tmp_path_factory: pytest.TempPathFactory, nodes: dict[str, str], paths: list[str]
) -> None:
    root = tmp_path_factory.mktemp("tree") / "root"
    root.mkdir()
    outside = root.parent / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(SECRET)
    (root / "seed").write_bytes(b"inside")
    plant(root, nodes)
    before = open_files()
    for path in paths:
        plain = _is_plain(root, path)
        try:
            assert read(root, path) == b"inside"
            assert plain
        except ToolFailed:
            assert not plain
        try:
            assert write(root, path, b"inside") is plain
            assert not any(
                one.is_symlink() for one in [root / path, *(root / path).parents] if one.is_relative_to(root)
            )
        except ToolFailed:
            assert not plain
    assert open_files() == before
    assert names_in(outside) == ["secret"]
    assert (outside / "secret").read_bytes() == SECRET


def _is_plain(root: Path, path: str) -> bool:
    """By looking at every part: nobody races here."""
    node = root
    for part in path.split("/"):
        node /= part
        if node.is_symlink():
            return False
    return node.is_file()


RACER = """
import os, sys
root, outside = sys.argv[1:]
os.chdir(root)
print("ready", flush=True)
while True:
    os.rename("sub", "aside")
    os.symlink(outside, "sub")
    os.unlink("sub")
    os.rename("aside", "sub")
    os.symlink(outside + "/secret", "c.txt")
    os.unlink("c.txt")
    os.link("a.txt", "c.txt")
    os.unlink("c.txt")
"""


def test_no_race_of_names_leads_outside(root: Path) -> None:
    """Somebody exchanges a directory, and a file, for links that lead out, as fast as a process can."""
    outside = root.parent / "outside"
    (outside / "deep").mkdir()
    (outside / "deep" / "b.txt").write_bytes(SECRET)
    before = open_files()
    seen: set[bytes | bool | str] = set()
    with subprocess.Popen([sys.executable, "-c", RACER, str(root), str(outside)], stdout=subprocess.PIPE) as racer:
        assert racer.stdout is not None
        assert racer.stdout.readline() == b"ready\n"
        try:
            for number in range(100_000):
                seen |= {outcome_of(partial(read, root, path)) for path in ("sub/deep/b.txt", "c.txt")}
                seen.add(outcome_of(partial(write, root, "sub/deep/w.txt", b"written")))
                if number > 500 and seen >= {b"content of b", b"content of a", "path_not_allowed"}:
                    break
        finally:
            racer.kill()
    assert {b"content of b", b"content of a", "path_not_allowed"} <= seen, "the race was run"
    assert seen <= {b"content of b", b"content of a", "path_not_allowed", "not_a_file", "not_found", True, False}
    assert names_in(outside / "deep") == ["b.txt"]
    assert open_files() == before


def outcome_of(work: Callable[[], bytes | bool]) -> bytes | bool | str:
    try:
        return work()
    except ToolFailed as failure:
        return failure.kind
