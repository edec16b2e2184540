"""Programs: what a tool wants to run, within which bounds, and what came of it."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from appliance.config.settings import Settings

# The machine's own programs, as Debian's login(1) and systemd have it; what a user has in a home is not among them.
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Limits:
    """What one process of a run may take (setrlimit(2)). The clock bounds the run as a whole.

    `memory_bytes`: address space; 0: as much as there is. `processes`: how many more than there are now, as the kernel
    counts all of a user's. `file_bytes`: the longest file.
    """

    memory_bytes: int = 4 << 30
    file_bytes: int = 1 << 30
    open_files: int = 1024
    processes: int = 256


@dataclass(frozen=True, slots=True)
class Program:
    """A program to run. `argv[0]` is an absolute path; no shell reads any of it.

    `home`: an empty directory of this run alone: the HOME by which its processes are known, wherever they move.
    `variables`: set besides PATH, HOME, TMPDIR and LANG, which are all there is.
    """

    argv: tuple[str, ...]
    home: Path
    cwd: Path
    timeout_s: float
    stdin: bytes = field(default=b"", repr=False)
    stdout_max_chars: int = 20_000
    stderr_max_chars: int = 20_000
    limits: Limits = Limits()
    variables: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def name(self) -> str:
        """The program as a message may name it: no path of this machine."""
        return os.path.basename(self.argv[0])

    def environment(self) -> dict[str, str]:
        """Made from nothing: neither the gateway's secrets nor the library path of its executable is in it."""
        home = str(self.home)
        return {"PATH": PATH, "HOME": home, "TMPDIR": home, "LANG": "C.UTF-8", **self.variables}


def bounded_program(
    settings: Settings, argv: tuple[str, ...], *, home: Path, cwd: Path, timeout_s: float, stdin: bytes = b""
) -> Program:
    """A program within the bounds that the operator set for all of them."""
    return Program(
        argv=argv,
        home=home,
        cwd=cwd,
        timeout_s=timeout_s,
        stdin=stdin,
        stdout_max_chars=settings.tools_subprocess_stdout_max_chars,
        stderr_max_chars=settings.tools_subprocess_stderr_max_chars,
        limits=Limits(memory_bytes=settings.tools_subprocess_max_memory_bytes),
    )


@dataclass(frozen=True, slots=True)
class ProgramResult:
    """How a program ended. `returncode`: its exit status, or minus the signal that ended it.

    `stdout`, `stderr`: the last characters of each, bytes that are not UTF-8 replaced; `stdout_cut`: there was more.
    `cpu_s`: of the program and the children it waited for. `io_bytes`: what it read and wrote through its pipes.
    """

    returncode: int
    stdout: str
    stderr: str
    stdout_cut: bool
    timed_out: bool
    cpu_s: float
    io_bytes: int
