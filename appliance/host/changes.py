"""Changes: every step that alters the machine, written down with its way back before it is done."""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from appliance.host.machine import UNIT, USER, Machine


@dataclass(frozen=True, slots=True)
class Undo:
    """One step back. `was`: a link's old target, the place of a file's old content, or a unit's old state."""

    kind: str
    path: str
    was: str = ""


@dataclass(frozen=True, slots=True)
class Made:
    """One thing that is on the machine because of us. `kind`: file, link, directory or user. `kept`: an uninstall
    leaves it, a purge takes it with all that is in it. `sha256`: of a file that we would replace."""

    kind: str
    path: str
    kept: bool = False
    sha256: str = ""


class Changes:
    """The steps of one command. Each is noted on the disk first, so that a power cut in the middle can be undone."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._undo: list[Undo] = []
        self.made: list[Made] = []

    def make_directory(self, path: Path, mode: int, owner: tuple[int, int] = (0, 0), *, kept: bool = False) -> None:
        if path.is_dir():
            return
        if not path.parent.is_dir():
            self.make_directory(path.parent, 0o755)
        self._note(Undo("directory", str(path)))
        path.mkdir(mode=0o700)
        _give(path, mode, owner)
        self.made.append(Made("directory", str(path), kept))

    def write_file(
        self, path: Path, data: bytes, mode: int, owner: tuple[int, int] = (0, 0), *, kept: bool = False
    ) -> None:
        """Make or replace a file: a reader sees the old one or the new one."""
        if path.exists() and path.read_bytes() == data:
            self.made.append(Made("file", str(path), kept, _sha256(data)))
            return
        self._note_file(path)
        _replace(path, data, mode, owner)
        self.made.append(Made("file", str(path), kept, _sha256(data)))

    def copy_file(self, source: Path, target: Path, mode: int) -> None:
        """Make a file that is a copy, on the disk when this returns."""
        self._note(Undo("file", str(target)))
        with source.open("rb") as read, target.open("xb") as write:
            shutil.copyfileobj(read, write, 1 << 20)
            write.flush()
            os.fsync(write.fileno())
        _give(target, mode, (0, 0))
        _sync(target.parent)
        self.made.append(Made("file", str(target)))

    def make_link(self, path: Path, target: str) -> None:
        """Make or turn a link, in one step."""
        was = os.readlink(path) if path.is_symlink() else ""
        self.made.append(Made("link", str(path)))
        if was == target:
            return
        self._note(Undo("link", str(path), was))
        _turn_link(path, target)

    def replace_tree(self, path: Path) -> None:
        """Move a folder aside; going back, it replaces what took its place. Nothing is at `path` afterwards."""
        aside = path.with_name(f".{path.name}.before")
        if aside.exists():
            shutil.rmtree(aside)
        self._note(Undo("tree", str(path), str(aside)))
        if path.exists():
            path.rename(aside)

    def add_user(self) -> tuple[int, int]:
        """The service's user, made if there is none."""
        found = self._machine.find_user()
        if found is None:
            self._note(Undo("user", USER))
            self.made.append(Made("user", USER, kept=True))
            options = ["--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent"]
            ran = self._machine.run(["useradd", *options, "--shell", "/usr/sbin/nologin", USER])
            found = self._machine.find_user()
            if found is None:
                raise OSError(f"useradd: {ran.output}")
        return found

    def note_unit(self, *, enabled: bool, active: bool) -> None:
        """From here on the unit's state changes; going back, it is what it was."""
        self._note(Undo("unit", UNIT, json.dumps({"enabled": enabled, "active": active})))

    def take_back(self) -> list[str]:
        """Undo everything, the last step first; what could not be undone, one line each."""
        problems = run_undo(self._machine, self._undo)
        self._undo.clear()
        self._machine.undo.unlink(missing_ok=True)
        return problems

    def keep(self) -> None:
        """It is good: nothing will be taken back."""
        self._machine.undo.unlink(missing_ok=True)  # first: from here on nothing is undone
        for step in self._undo:
            if step.kind == "content":
                Path(step.was).unlink(missing_ok=True)
            if step.kind == "tree":
                shutil.rmtree(step.was, ignore_errors=True)
        self._undo.clear()

    def _note_file(self, path: Path) -> None:
        if not path.exists():
            self._note(Undo("file", str(path)))
            return
        aside = path.with_name(f".{path.name}.before")
        self._note(Undo("content", str(path), str(aside)))
        shutil.copy2(path, aside)
        status = path.stat()
        os.chown(aside, status.st_uid, status.st_gid)

    def _note(self, step: Undo) -> None:
        self._undo.append(step)
        with self._machine.undo.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(step)) + "\n")
            file.flush()
            os.fsync(file.fileno())


@contextmanager
def open_changes(machine: Machine) -> Iterator[Changes]:
    """Changes that are taken back if the block fails. The caller holds the lock."""
    changes = Changes(machine)
    try:
        yield changes
    except BaseException as failure:  # ^C too: the machine must not stay half changed
        for problem in changes.take_back():
            failure.add_note(problem)
        raise
    changes.keep()


def take_back_interrupted(machine: Machine) -> bool:
    """Undo what a command that was killed has left; whether there was anything."""
    try:
        lines = machine.undo.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return False
    steps = []
    for line in lines:
        with contextlib.suppress(ValueError):  # the last line of a power cut: its step was not begun
            steps.append(Undo(**json.loads(line)))
    run_undo(machine, steps)
    machine.undo.unlink(missing_ok=True)
    return True


def run_undo(machine: Machine, steps: list[Undo]) -> list[str]:
    """Take steps back, the last one first; the unit stops before its files go, and starts when they are back."""
    problems = []
    units = [json.loads(step.was) for step in steps if step.kind == "unit"]
    for was in units:
        if not was["active"]:
            machine.systemctl("stop", UNIT)
        if not was["enabled"]:
            machine.systemctl("disable", UNIT)
    for step in reversed([step for step in steps if step.kind != "unit"]):
        try:
            _UNDO[step.kind](machine, step)
        except OSError as error:
            problems.append(f"could not take back {step.path}: {error.strerror or error}")
    for was in units:
        machine.systemctl("daemon-reload")
        machine.systemctl("reset-failed", UNIT)
        if was["active"]:
            machine.systemctl("restart", UNIT)
    return problems


def _undo_file(_machine: Machine, step: Undo) -> None:
    Path(step.path).unlink(missing_ok=True)


def _undo_content(_machine: Machine, step: Undo) -> None:
    if Path(step.was).exists():
        Path(step.was).replace(step.path)


def _undo_tree(_machine: Machine, step: Undo) -> None:
    if Path(step.was).exists():
        shutil.rmtree(step.path, ignore_errors=True)
        Path(step.was).rename(step.path)


def _undo_directory(_machine: Machine, step: Undo) -> None:
    with contextlib.suppress(FileNotFoundError):
        Path(step.path).rmdir()


def _undo_link(_machine: Machine, step: Undo) -> None:
    if step.was:
        _turn_link(Path(step.path), step.was)
    else:
        Path(step.path).unlink(missing_ok=True)


def _undo_user(machine: Machine, step: Undo) -> None:
    if machine.find_user() is not None:
        machine.run(["userdel", step.path])


_UNDO: Mapping[str, Callable[[Machine, Undo], None]] = {
    "file": _undo_file,
    "content": _undo_content,
    "tree": _undo_tree,
    "directory": _undo_directory,
    "link": _undo_link,
    "user": _undo_user,
}


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _replace(path: Path, data: bytes, mode: int, owner: tuple[int, int]) -> None:
    aside = path.with_name(f".{path.name}.new")
    try:
        with open(aside, "wb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        _give(aside, mode, owner)
        aside.replace(path)
        _sync(path.parent)
    finally:
        aside.unlink(missing_ok=True)


def _turn_link(path: Path, target: str) -> None:
    aside = path.with_name(f".{path.name}.new")
    aside.unlink(missing_ok=True)
    aside.symlink_to(target)
    aside.replace(path)
    _sync(path.parent)


def _sync(folder: Path) -> None:
    """A new name is on the disk when its folder is."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _give(path: Path, mode: int, owner: tuple[int, int]) -> None:
    if os.geteuid() == 0:
        os.chown(path, *owner)
    path.chmod(mode)
