"""Backup: configuration and state in one archive, and back again."""

import os
import shutil
import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from appliance.host.changes import Changes, open_changes
from appliance.host.failures import Exit, HostFailure
from appliance.host.locking import only_one, require_root, require_systemd
from appliance.host.machine import UNIT, Machine
from appliance.host.receipt import load_installed
from appliance.host.releasing import Say, as_host_failures
from appliance.host.service import read_state, start_service

PARTS = ("etc", "state")  # the folders in an archive
RECEIPT = "receipt.json"  # of the machine, not of the configuration
MAX_MEMBERS = 1_000_000


@dataclass(frozen=True, slots=True)
class Backup:
    """One archive that was written."""

    file: Path
    files: int
    bytes: int


def create_backup(machine: Machine, file: Path) -> Backup:
    """Write configuration and state into a new archive, mode 0600: it holds the tokens. The service runs on: its
    journals are repaired when they are read again. Raises HostFailure."""
    require_root(machine)
    load_installed(machine)
    count = 0
    with as_host_failures():
        try:
            descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        except FileExistsError:
            raise HostFailure(f"{file} is there already: name another", Exit.CANNOT_CREATE) from None
        try:
            with (
                open(descriptor, "wb") as out,
                tarfile.open(fileobj=out, mode="w:gz", format=tarfile.PAX_FORMAT) as tar,
            ):
                for path, name in _wanted(machine):
                    count += _add(tar, path, name)
                out.flush()
        except BaseException:
            file.unlink(missing_ok=True)
            raise
    return Backup(file, count, file.stat().st_size)


def _wanted(machine: Machine) -> Iterator[tuple[Path, str]]:
    for part, top in zip(PARTS, (machine.etc, machine.state), strict=True):
        if top.is_dir():
            for path in sorted(top.rglob("*")):
                if path != machine.receipt:
                    yield path, f"{part}/{path.relative_to(top)}"


def _add(tar: tarfile.TarFile, path: Path, name: str) -> int:
    """Regular files and folders alone; a file that grows or goes meanwhile is taken as it was when it was opened."""
    try:
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            return 0
        if path.is_dir():
            tar.add(path, name, recursive=False)
            return 0
        with path.open("rb") as file:
            entry = tar.gettarinfo(arcname=name, fileobj=file)
            tar.addfile(entry, file)
    except FileNotFoundError:
        return 0
    return 1


def restore_backup(machine: Machine, file: Path, say: Say) -> int:
    """Put configuration and state back as they were in the archive, and start the service with them. How many files.

    Raises HostFailure: then everything is as it was.
    """
    with only_one(machine):
        require_systemd(machine)
        load_installed(machine)
        with as_host_failures(), _open_archive(file) as tar:
            members = _check(tar)
            with open_changes(machine) as changes:
                state = read_state(machine)
                changes.note_unit(enabled=state.enabled, active=state.running)
                say("stopping it")
                machine.systemctl("stop", UNIT)
                owner = changes.add_user()
                for part, top in zip(PARTS, (machine.etc, machine.state), strict=True):
                    _restore_part(machine, changes, tar, members, part, top, owner)
                say("starting it")
                start_service(machine)
    return sum(member.isfile() for member in members)


def _restore_part(
    machine: Machine,
    changes: Changes,
    tar: tarfile.TarFile,
    members: list[tarfile.TarInfo],
    part: str,
    top: Path,
    owner: tuple[int, int],
) -> None:
    receipt = machine.receipt.read_bytes() if top == machine.etc else None
    changes.replace_tree(top)
    user = owner if top == machine.state else (0, owner[1])
    top.mkdir(mode=0o700)
    _own(top, user, 0o700 if top == machine.state else 0o750)
    for member in members:
        path = PurePosixPath(member.name)
        if path.parts[0] != part or len(path.parts) < 2:
            continue
        target = top.joinpath(*path.parts[1:])
        if member.isdir():
            target.mkdir(mode=0o700, parents=True, exist_ok=True)
        else:
            _extract(tar, member, target)
        secret = top == machine.etc and not member.mode & 0o077
        _own(target, (0, 0) if secret else user, member.mode & 0o777)
    if receipt is not None:
        machine.receipt.write_bytes(receipt)


def _extract(tar: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    source = tar.extractfile(member)
    if source is None:
        return
    with source, target.open("xb") as out:
        shutil.copyfileobj(source, out, 1 << 20)
    os.utime(target, (member.mtime, member.mtime))


def _own(path: Path, owner: tuple[int, int], mode: int) -> None:
    if os.geteuid() == 0:
        os.chown(path, *owner)
    path.chmod(mode)


def _open_archive(file: Path) -> tarfile.TarFile:
    try:
        return tarfile.open(file, "r:gz")
    except (tarfile.TarError, EOFError) as error:
        raise HostFailure(f"{file} is no backup: {error}", Exit.DATA) from None


def _check(tar: tarfile.TarFile) -> list[tarfile.TarInfo]:
    """Every member, once all were read to the end: a cut or hostile archive is refused before anything is moved."""
    members = []
    try:
        for member in tar:
            path = PurePosixPath(member.name)
            plain = member.isfile() or member.isdir()
            if not plain or path.is_absolute() or ".." in path.parts or path.parts[0] not in PARTS:
                raise HostFailure(f"the archive holds {member.name!r}, which no backup of ours does", Exit.DATA)
            members.append(member)
            if len(members) > MAX_MEMBERS:
                raise HostFailure("the archive holds too many files to be a backup of ours", Exit.DATA)
        while tar.fileobj.read(1 << 20):
            pass  # gzip's checksum stands at the very end
    except (tarfile.TarError, EOFError, OSError) as error:
        raise HostFailure(f"the backup is damaged: {error}", Exit.DATA) from None
    if not any(member.isfile() and member.name.startswith("etc/") for member in members):
        raise HostFailure("the archive holds no configuration: it is no backup of ours", Exit.DATA)
    return members


def default_name(now: float | None = None) -> str:
    """`appliance-backup-<UTC>.tar.gz`."""
    return time.strftime("appliance-backup-%Y%m%dT%H%M%SZ.tar.gz", time.gmtime(now))
