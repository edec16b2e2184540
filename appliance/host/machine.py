"""The machine as the commands see it: where things lie, and the few programs of the system that are run."""

import os
import pwd
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from appliance.host.bootloader import child_environment
from appliance.host.failures import Exit, HostFailure

USER = "appliance"
UNIT = "appliance.service"
COMMAND_TIMEOUT_S = 90.0  # a stop that drains takes 50


@dataclass(frozen=True, slots=True)
class Ran:
    """How a program ended, and what it said on both outputs."""

    code: int
    output: str


Run = Callable[[Sequence[str]], Ran]


def run_program(command: Sequence[str]) -> Ran:
    """Run one to its end, within COMMAND_TIMEOUT_S. Raises HostFailure where it cannot be started."""
    try:
        done = subprocess.run(  # noqa: S603 -- fixed programs, and the file that root asked for
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=child_environment(os.environ),
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Ran(124, f"{command[0]} did not end within {COMMAND_TIMEOUT_S:g} s")  # 124: as timeout(1) has it
    except FileNotFoundError:
        raise HostFailure(f"there is no program {command[0]} here: install it", Exit.UNAVAILABLE) from None
    except PermissionError:
        raise HostFailure(
            f"{command[0]} may not be run: is it on a file system mounted noexec? choose another with --prefix",
            Exit.CANNOT_CREATE,
        ) from None
    return Ran(done.returncode, done.stdout.decode(errors="replace").strip())


def find_user() -> tuple[int, int] | None:
    """The service's user and group; None if there is none yet."""
    try:
        entry = pwd.getpwnam(USER)
    except KeyError:
        return None
    return entry.pw_uid, entry.pw_gid


@dataclass(frozen=True, slots=True)
class Machine:
    """Everything below `root`, which is `/` but in tests. `prefix`: absolute, as the running system sees it."""

    prefix: Path = Path("/usr/local")
    root: Path = Path("/")
    run: Run = field(default=run_program)
    find_user: Callable[[], tuple[int, int] | None] = field(default=find_user)
    is_root: bool = field(default_factory=lambda: os.geteuid() == 0)

    def below(self, path: Path) -> Path:
        return self.root / path.relative_to("/")

    @property
    def lib(self) -> Path:
        return self.below(self.prefix / "lib" / "appliance")

    @property
    def releases(self) -> Path:
        return self.lib / "releases"

    @property
    def current(self) -> Path:
        """The link to the release that runs."""
        return self.lib / "current"

    @property
    def command(self) -> Path:
        """What a person types."""
        return self.below(self.prefix / "bin" / "appliance")

    @property
    def unit(self) -> Path:
        return self.below(Path("/etc/systemd/system") / UNIT)

    @property
    def etc(self) -> Path:
        return self.below(Path("/etc/appliance"))

    @property
    def state(self) -> Path:
        return self.below(Path("/var/lib/appliance"))

    @property
    def receipt(self) -> Path:
        """Beside the configuration, because it outlives an uninstall that keeps that."""
        return self.etc / "receipt.json"

    @property
    def undo(self) -> Path:
        """What is to be taken back if the power goes in the middle."""
        return self.below(Path("/var/lib")) / ".appliance-undo.jsonl"

    @property
    def lock(self) -> Path:
        return self.below(Path("/run")) / "appliance-install.lock"

    def has_systemd(self) -> bool:
        return self.below(Path("/run/systemd/system")).is_dir()  # sd_booted(3)

    def systemctl(self, *arguments: str) -> Ran:
        return self.run(["systemctl", "--no-pager", *arguments])
