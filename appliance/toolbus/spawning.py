"""Spawning: a program started with its limits, in a session of its own; or why it cannot be, in stable words.

Limits hold from a program's first instruction: util-linux's `prlimit` sets them on itself and then becomes the program
(execvp; no shell). Setting them in the child between fork and exec would run Python there, which may lock up in a
process with threads. Where there is no `prlimit`, and for formats of which only the kernel knows whether they run
here, they are set from outside as soon as the process is there: half a millisecond late.
"""

import errno
import math
import os
import platform
import resource
import stat
import subprocess

import trio

from appliance.toolbus.base import ToolFailed
from appliance.toolbus.program import Program

_PRLIMIT = "/usr/bin/prlimit"  # Debian's util-linux, which is essential there
_CPU_GRACE_S = 1  # between SIGXCPU, which a program may catch, and SIGKILL
_MACHINES = {"x86_64": 62, "aarch64": 183, "riscv64": 243, "ppc64le": 21, "s390x": 22}  # elf(5): e_machine
_REASONS = {
    errno.ENOENT: ("program_not_found", "was not found: install it, or correct its path"),
    errno.ENOTDIR: ("program_not_found", "was not found: install it, or correct its path"),
    errno.EACCES: ("program_not_executable", "may not be executed: make it executable for this user"),
    errno.EPERM: ("program_not_executable", "may not be executed: make it executable for this user"),
    errno.EISDIR: ("program_not_executable", "is a directory: name a program"),
    errno.ENOEXEC: ("program_bad_format", "has a format that does not run here: a script must begin with #!"),
    errno.E2BIG: ("arguments_too_long", "got more arguments than the system passes on: send less, or by stdin"),
}  # fmt: skip


async def spawn(program: Program) -> trio.Process:
    """Start it, leader of its own session and group. Raises ToolFailed."""
    _check_text(program)
    wrapped = await trio.to_thread.run_sync(_may_be_wrapped, program)
    limits = _limits(program)
    command = (*_wrapper(limits), *program.argv) if wrapped else program.argv
    try:
        process = await trio.lowlevel.open_process(
            command,
            stdin=subprocess.PIPE if program.stdin else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=program.cwd,
            env=program.environment(),
            start_new_session=True,
        )
    except OSError as error:
        raise _refused(error, program) from None
    if not wrapped:
        _limit(process.pid, limits)
    return process


def explain_start(program: Program, returncode: int, stderr: str) -> ToolFailed | None:
    """Why a program never ran, where `prlimit` found out: a script whose interpreter is missing, say."""
    prefix = "prlimit: failed to "
    if returncode not in {1, 126, 127} or not stderr.startswith(prefix):
        return None
    reason = stderr.rstrip().rpartition(": ")[2]
    for number in (errno.ENOENT, errno.EACCES, errno.ENOEXEC, errno.E2BIG):
        if reason == os.strerror(number):
            return _refused(OSError(number, reason), program)
    return ToolFailed("program_not_started", f"{program.name} could not be started ({reason}).")


def _check_text(program: Program) -> None:
    """What the system's calls do not take, which Python would say in exceptions of its own."""
    try:
        data = [os.fsencode(word) for word in program.argv]
    except UnicodeEncodeError:
        raise ToolFailed("bad_argument", "An argument holds half a surrogate pair: send UTF-8.") from None
    if any(b"\0" in word for word in data):
        raise ToolFailed("bad_argument", "An argument holds NUL: no program takes one.")


def _may_be_wrapped(program: Program) -> bool:
    """Whether it is surely a program of this machine's: for any other file execvp would start a shell.

    Raises ToolFailed for what is no program at all.
    """
    try:
        if not stat.S_ISREG(os.stat(program.argv[0]).st_mode):
            raise _refused(OSError(errno.EISDIR, ""), program)
        if not os.access(program.argv[0], os.X_OK):
            raise _refused(OSError(errno.EACCES, ""), program)
        with open(program.argv[0], "rb") as file:
            head = file.read(20)
    except PermissionError:
        return False  # executable and not readable: a program may be that
    except OSError as error:
        raise _refused(error, program) from None
    return os.access(_PRLIMIT, os.X_OK) and (head.startswith(b"#!") or _is_native(head))


def _is_native(head: bytes) -> bool:
    little = head[5:6] != b"\x02"
    machine = int.from_bytes(head[18:20], "little" if little else "big")
    return head.startswith(b"\x7fELF") and machine == _MACHINES.get(platform.machine())


def _limits(program: Program) -> dict[str, tuple[int, int]]:
    """Soft and hard limit by `prlimit`'s names; none higher than our own, which only a privileged process may raise."""
    given = program.limits
    cpu_s = math.ceil(program.timeout_s) * (os.cpu_count() or 1)  # should we be killed, it does not run for ever
    wanted = {
        "cpu": (cpu_s, cpu_s + _CPU_GRACE_S),
        "as": (given.memory_bytes or resource.RLIM_INFINITY,) * 2,
        "fsize": (given.file_bytes,) * 2,
        "nofile": (given.open_files,) * 2,
        "nproc": (_running_tasks() + given.processes,) * 2,
        "core": (0, 0),
    }
    return {name: _clamped(name, soft, hard) for name, (soft, hard) in wanted.items()}


def _clamped(name: str, soft: int, hard: int) -> tuple[int, int]:
    own = resource.getrlimit(_number(name))[1]
    if own == resource.RLIM_INFINITY:
        return soft, hard
    return tuple(own if value == resource.RLIM_INFINITY else min(value, own) for value in (soft, hard))  # type: ignore[return-value]  # two


def _number(name: str) -> int:
    return int(getattr(resource, f"RLIMIT_{name.upper()}"))


def _running_tasks() -> int:
    """Threads of all users (proc_loadavg(5)): more than this user's, which the limit counts, and one read."""
    try:
        with open("/proc/loadavg", "rb") as file:
            return int(file.read().split()[3].partition(b"/")[2])
    except (OSError, ValueError, IndexError):
        return 4096


def _wrapper(limits: dict[str, tuple[int, int]]) -> tuple[str, ...]:
    def shown(value: int) -> str:
        return "unlimited" if value == resource.RLIM_INFINITY else str(value)

    options = (f"--{name}={shown(soft)}:{shown(hard)}" for name, (soft, hard) in limits.items())
    return (_PRLIMIT, *options, "--")


def _limit(pid: int, limits: dict[str, tuple[int, int]]) -> None:
    try:
        for name, pair in limits.items():
            resource.prlimit(pid, _number(name), pair)
    except (ProcessLookupError, PermissionError):
        pass  # it is over, or another user's by setuid: the clock bounds it


def _refused(error: OSError, program: Program) -> ToolFailed:
    if error.filename is not None and os.fspath(error.filename) == os.fspath(program.cwd):
        return ToolFailed("cwd_missing", "The directory that it runs in cannot be entered: create it, or name another.")
    number = error.errno or 0
    kind, words = _REASONS.get(number, ("program_not_started", f"could not be started ({os.strerror(number)})"))
    return ToolFailed(kind, f"{program.name} {words}.")
