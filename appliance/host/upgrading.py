"""Upgrading: another release takes over, or the one before stays; and the way back."""

from pathlib import Path

from appliance.host.candidate import Candidate, inspect, is_older
from appliance.host.changes import open_changes
from appliance.host.failures import Exit, HostFailure
from appliance.host.locking import only_one, require_systemd
from appliance.host.machine import Machine
from appliance.host.receipt import Receipt, load_installed
from appliance.host.releasing import EXECUTABLE, Released, Say, TryOut, as_host_failures, drop_old_releases, release
from appliance.host.service import read_state
from appliance.host.smoke import smoke_test


def upgrade(
    machine: Machine, file: Path, *, sha256: str, allow_older: bool, say: Say, try_out: TryOut = smoke_test
) -> Released | None:
    """Make `file` the release that serves; None if it is already. Raises HostFailure: the old one serves then."""
    with only_one(machine):
        require_systemd(machine)
        receipt = load_installed(machine)
        candidate = inspect(machine, file, sha256=sha256)
        current = receipt.current
        if current is not None and current.sha256 == candidate.release.sha256:
            return None
        if current is not None and not allow_older and is_older(candidate.release.version, current.version):
            raise HostFailure(
                f"{current.version} is installed, and {file} is the older {candidate.release.version}: "
                "say --allow-older if that is meant, or `appliance rollback`",
                Exit.DATA,
            )
        say(f"upgrading to {candidate.release.name}")
        released = _change(machine, receipt, candidate, say, try_out)
        drop_old_releases(machine, released.receipt)
    return released


def rollback(machine: Machine, say: Say, try_out: TryOut = smoke_test) -> Released:
    """Go back to the release before; the one that is left becomes the one to roll back to. Raises HostFailure."""
    with only_one(machine):
        require_systemd(machine)
        receipt = load_installed(machine)
        if receipt.previous is None:
            raise HostFailure("there is no release before this one on the machine", Exit.UNAVAILABLE)
        candidate = inspect(machine, machine.releases / receipt.previous.name / EXECUTABLE)
        say(f"going back to {candidate.release.name}")
        return _change(machine, receipt, candidate, say, try_out)


def _change(machine: Machine, receipt: Receipt, candidate: Candidate, say: Say, try_out: TryOut) -> Released:
    try:
        with as_host_failures(), open_changes(machine) as changes:
            return release(machine, changes, receipt, candidate, start=True, say=say, try_out=try_out)
    except HostFailure as failure:
        serving = receipt.current.name if receipt.current else "the old release"
        state = read_state(machine)
        if state.running:
            outcome = f"{serving} serves as before"
        else:
            outcome = f"{serving} is back in place but does not serve ({state.active}): `journalctl -u appliance -n 30`"
        raise HostFailure(f"{failure}\n{outcome}", failure.code) from failure
