"""Families: every process that came of a program, found by group, session, parent or HOME, and killed."""

import contextlib
import os
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

_PROC = "/proc"
_ZOMBIE = "Z"


@dataclass(frozen=True, slots=True)
class _Seen:
    """A process as /proc shows it. `born`: clock ticks since boot (proc_pid_stat(5), field 22)."""

    pid: int
    state: str
    parent: int
    group: int
    session: int
    born: int


class Family:
    """The processes of one run, by its leader and the HOME that it was given; `known` are those that were met."""

    def __init__(self, leader: int, home: Path) -> None:
        self._leader = leader
        self._mark = b"HOME=" + os.fsencode(home)
        self._known: dict[int, int] = {}  # by number: when it was born, as numbers come again

    def kill(self) -> bool:
        """Send SIGKILL to all that live, and bury the dead among our own children; the leader is left to its owner.

        Whether anybody lived: then call again, as they may have had children meanwhile. Those of another user, whom we
        may not kill, do not count. Who left the session with
        `setsid` is known by a living parent or by HOME. Call before the leader is reaped: until then its number, and
        its group's, is its own.
        """
        seen = {process.pid: process for process in _look()}
        found = [seen[pid] for pid in sorted(self._find(seen))]
        self._known.update((process.pid, process.born) for process in found)
        living = [process for process in found if process.state != _ZOMBIE]
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._leader, signal.SIGKILL)  # at once for all of the group: no fork slips through
        mortal = [process for process in living if _kill(process)]
        for process in found:
            if process.pid != self._leader and process.parent == os.getpid():  # orphans, where we are process 1
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(process.pid, os.WNOHANG)
        return bool(mortal)

    def _find(self, seen: Mapping[int, _Seen]) -> set[int]:
        leader = self._leader
        family = {pid for pid, process in seen.items() if leader in {pid, process.group, process.session}}
        family |= {pid for pid, born in self._known.items() if pid in seen and seen[pid].born == born}
        born = seen[leader].born if leader in seen else 0
        young = [pid for pid, process in seen.items() if process.born >= born and pid not in family]
        family |= {pid for pid in young if _is_marked(pid, self._mark)}
        while children := {pid for pid, process in seen.items() if process.parent in family} - family:
            family |= children
        return family


def _kill(process: _Seen) -> bool:
    """By a descriptor: the number may have gone to somebody else since. False: we may not."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except OSError:
        return _kill_by_number(process.pid)  # sandboxes that do not know the call, and no descriptor to be had
    try:
        now = _read(process.pid)
        if now is not None and now.born == process.born:
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    finally:
        os.close(descriptor)
    return True


def _kill_by_number(pid: int) -> bool:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return True


def _look() -> Iterator[_Seen]:
    try:
        names = os.listdir(_PROC)
    except OSError:
        return
    for name in names:
        if name.isdigit() and (process := _read(int(name))) is not None:
            yield process


def _read(pid: int) -> _Seen | None:
    try:
        with open(f"{_PROC}/{pid}/stat", "rb") as file:
            text = file.read()
    except OSError:
        return None
    fields = text[text.rindex(b")") + 2 :].split()  # a program's name may hold blanks and brackets
    return _Seen(pid, fields[0].decode(), int(fields[1]), int(fields[2]), int(fields[3]), int(fields[19]))


def _is_marked(pid: int, mark: bytes) -> bool:
    try:
        with open(f"{_PROC}/{pid}/environ", "rb") as file:
            return mark in file.read().split(b"\0")
    except OSError:
        return False
