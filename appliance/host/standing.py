"""Standing: what is installed, what runs, and whether the two are the same."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from appliance.host.candidate import read_wanted
from appliance.host.failures import HostFailure
from appliance.host.machine import Machine
from appliance.host.receipt import Receipt, load_installed
from appliance.host.releasing import EXECUTABLE
from appliance.host.service import ServiceState, read_state


@dataclass(frozen=True, slots=True)
class Standing:
    """How an installed box stands. `same`: what runs is the installed release; None: nothing runs, or who asks may not
    look. `url` None: the configuration is not good, or may not be read."""

    receipt: Receipt
    service: ServiceState
    same: bool | None
    url: str | None
    unit_edited: bool


def read_standing(machine: Machine) -> Standing:
    """Look, and change nothing. Raises HostFailure if nothing is installed."""
    receipt = load_installed(machine)
    service = read_state(machine)
    return Standing(
        receipt=receipt,
        service=service,
        same=_runs_what_is_installed(receipt, service),
        url=_url(machine),
        unit_edited=_digest(machine.unit) != receipt.sha256_of(str(machine.unit)),
    )


def _runs_what_is_installed(receipt: Receipt, service: ServiceState) -> bool | None:
    if not service.main_pid or receipt.current is None:
        return None
    running = _digest(Path(f"/proc/{service.main_pid}/exe"))
    return None if running is None else running == receipt.current.sha256


def _digest(file: Path) -> str | None:
    try:
        with file.open("rb") as read:
            return hashlib.file_digest(read, "sha256").hexdigest()
    except OSError:
        return None


def _url(machine: Machine) -> str | None:
    try:
        return read_wanted(machine, machine.current / EXECUTABLE).api.url
    except HostFailure:
        return None
