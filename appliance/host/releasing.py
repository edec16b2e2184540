"""Releasing: a candidate becomes what serves, or everything is as it was. Install, upgrade and rollback meet here."""

import errno
import hashlib
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from appliance.host.candidate import Candidate, Wanted, read_wanted
from appliance.host.changes import Changes, Made
from appliance.host.failures import Exit, HostFailure
from appliance.host.machine import UNIT, Machine
from appliance.host.receipt import Receipt
from appliance.host.seal import BrokenSeal, check_seal
from appliance.host.service import read_state, start_service
from appliance.host.smoke import Door

Say = Callable[[str], None]
TryOut = Callable[[Door, str, bool], None]
EXECUTABLE = "appliance"


@dataclass(frozen=True, slots=True)
class Released:
    """What serves now. `notes`: what the operator should know."""

    receipt: Receipt
    wanted: Wanted
    notes: tuple[str, ...]


def release(
    machine: Machine,
    changes: Changes,
    receipt: Receipt,
    candidate: Candidate,
    *,
    start: bool,
    say: Say,
    try_out: TryOut,
) -> Released:
    """Put a candidate in place, run it, try it, and write the receipt. Raises HostFailure, OSError: the caller's
    `changes` then take everything back."""
    executable = _place(machine, changes, candidate)
    wanted = read_wanted(machine, executable)
    state = read_state(machine) if machine.has_systemd() else None
    if state is None or not state.running:
        _require_free_ports(machine, wanted)
    if state is not None:
        changes.note_unit(enabled=state.enabled, active=state.running)
    notes = _write_unit(machine, changes, receipt, candidate.unit)
    changes.make_link(machine.current, f"releases/{candidate.release.name}")
    changes.make_link(machine.command, str(machine.prefix / "lib" / "appliance" / "current" / EXECUTABLE))
    if start:
        say("starting it")
        start_service(machine)
        say("trying it")
        try_out(wanted.api, _first_token(machine) if wanted.token_from_file else "", wanted.draws)
    if state is not None:
        ran = machine.systemctl("enable", UNIT)
        if ran.code != 0:
            raise HostFailure(f"systemctl enable: {ran.output}", Exit.SOFTWARE)
    previous = receipt.current if receipt.current != candidate.release else receipt.previous
    kept = {one.name for one in (candidate.release, previous) if one is not None}
    receipt = replace(receipt.with_made(changes.made), current=candidate.release, previous=previous)
    for folder in _old_releases(machine, kept):
        receipt = receipt.without(str(folder))
    changes.write_file(machine.receipt, replace_own_row(machine, receipt).to_bytes(), 0o644, kept=True)
    return Released(receipt, wanted, tuple(notes))


def replace_own_row(machine: Machine, receipt: Receipt) -> Receipt:
    """The receipt lists itself too, without the digest that it cannot have."""
    return receipt.with_made([Made("file", str(machine.receipt), kept=True)])


def drop_old_releases(machine: Machine, receipt: Receipt) -> None:
    """What neither runs nor is the way back."""
    kept = {one.name for one in (receipt.current, receipt.previous) if one is not None}
    for folder in _old_releases(machine, kept):
        shutil.rmtree(folder, ignore_errors=True)


def _old_releases(machine: Machine, kept: set[str]) -> list[Path]:
    return [folder for folder in machine.releases.iterdir() if folder.is_dir() and folder.name not in kept]


def _place(machine: Machine, changes: Changes, candidate: Candidate) -> Path:
    """Copy the executable into a folder of its own, and see that it runs there: the file system may be noexec."""
    folder = machine.releases / candidate.release.name
    target = folder / EXECUTABLE
    if target.exists():
        try:
            whole = check_seal(target) == candidate.release.sha256
        except BrokenSeal:
            whole = False
        if not whole:
            raise HostFailure(f"{target} is damaged: remove {folder} and try again", Exit.CANNOT_CREATE)
        changes.made += [Made("directory", str(folder)), Made("file", str(target))]
    else:
        changes.make_directory(folder, 0o755)
        changes.copy_file(candidate.file, target, 0o755)
    changes.write_file(folder / UNIT, candidate.unit, 0o644)
    ran = machine.run([str(target), "version"])
    if ran.code != 0:
        raise HostFailure(f"{target} does not run: {ran.output[-300:]}", Exit.CANNOT_CREATE)
    return target


def _write_unit(machine: Machine, changes: Changes, receipt: Receipt, unit: bytes) -> list[str]:
    """The unit, unless somebody changed it by hand: theirs counts then, and they are told."""
    if machine.unit.exists():
        found = hashlib.sha256(machine.unit.read_bytes()).hexdigest()
        written = receipt.sha256_of(str(machine.unit))
        if written is None and found != hashlib.sha256(unit).hexdigest():
            raise HostFailure(
                f"{machine.unit} is there and is not ours: move it away, then try again", Exit.CANNOT_CREATE
            )
        if written is not None and found != written:
            note = (
                f"{machine.unit} was edited by hand and is left as it is; what this release wants is in "
                f"{machine.current / UNIT}: copy it over, and put your changes into a drop-in (`systemctl edit appliance`)"
            )
            return [note]
    changes.write_file(machine.unit, unit, 0o644)
    return []


def _require_free_ports(machine: Machine, wanted: Wanted) -> None:
    for door in (wanted.api, wanted.observability):
        if door is not None and door.port != 0:
            _require_free(machine, door)


def _require_free(machine: Machine, door: Door) -> None:
    family = socket.AF_INET6 if ":" in door.host else socket.AF_INET
    with socket.socket(family) as trying:
        trying.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trying.bind((door.host, door.port))
        except OSError as error:
            raise HostFailure(
                f"{door.host} port {door.port} cannot be listened on ({error.strerror}): stop what uses it, or choose "
                f"another with --bind, or in {machine.etc / 'appliance.env'}",
                Exit.UNAVAILABLE,
            ) from None


def _first_token(machine: Machine) -> str:
    lines = (machine.etc / "tokens").read_text(encoding="ascii").splitlines()
    return next((line.strip() for line in lines if line.strip() and not line.startswith("#")), "")


@contextmanager
def as_host_failures() -> Iterator[None]:
    """Turn what the disk says into what the operator can do. Everything has been taken back by then."""
    try:
        yield
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            message = f"the disk is full{where}: free 40 MB and try again"
        elif error.errno == errno.EROFS:
            message = f"the file system is read-only{where}: choose another with --prefix"
        else:
            message = f"{error.strerror or error}{where}"
        raise HostFailure(_with_notes(error, f"{message}. The box is as it was"), Exit.IO) from error
    except HostFailure as failure:
        raise HostFailure(_with_notes(failure, str(failure)), failure.code) from failure


def _with_notes(error: BaseException, message: str) -> str:
    return "\n".join([message, *getattr(error, "__notes__", ())])
