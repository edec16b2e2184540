"""One at a time: commands that change the machine exclude each other."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from appliance.host.changes import take_back_interrupted
from appliance.host.failures import Exit, HostFailure
from appliance.host.machine import Machine


@contextmanager
def only_one(machine: Machine) -> Iterator[None]:
    """Hold the lock, which the kernel takes back however we end, and undo what an earlier command that was cut off has
    left. Raises HostFailure at once if another holds it."""
    require_root(machine)
    with machine.lock.open("a+", encoding="ascii") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "?"
            raise HostFailure(
                f"another install, upgrade or uninstall is at work (process {holder}): try again when it is done",
                Exit.TRY_LATER,
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        take_back_interrupted(machine)
        yield


def require_root(machine: Machine) -> None:
    """Raises HostFailure for anybody else."""
    if not machine.is_root:
        raise HostFailure("this changes the machine: run it as root (sudo)", Exit.NO_PERMISSION)


def require_systemd(machine: Machine) -> None:
    """Raises HostFailure where systemd does not run."""
    if not machine.has_systemd():
        raise HostFailure(
            "systemd does not run here: `appliance serve` runs without it, "
            "`appliance install --no-start` lays everything out for a machine that will have it",
            Exit.UNAVAILABLE,
        )
