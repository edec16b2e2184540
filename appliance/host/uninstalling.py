"""Uninstalling: exactly what the receipt lists goes; configuration, state and user only where that is asked for."""

import contextlib
import errno
import shutil
from pathlib import Path

from appliance.host.changes import Made
from appliance.host.failures import Exit, HostFailure
from appliance.host.locking import only_one
from appliance.host.machine import UNIT, Machine
from appliance.host.receipt import Receipt, load_receipt
from appliance.host.releasing import Say, replace_own_row


def uninstall(machine: Machine, *, purge: bool, say: Say) -> list[str]:
    """Remove it; what stays, one line each. Can be done again where it was cut off. Raises HostFailure, OSError."""
    with only_one(machine):
        receipt = load_receipt(machine)
        if receipt is None:
            raise HostFailure("the appliance is not installed here", Exit.UNAVAILABLE)
        if receipt.current is not None:
            say("stopping it")
            machine.systemctl("disable", "--now", UNIT)
        left = _remove(machine, [row for row in receipt.made if not row.kept])
        machine.systemctl("daemon-reload")
        machine.systemctl("reset-failed", UNIT)
        kept = [row for row in receipt.made if row.kept]
        if purge:
            return left + _remove(machine, kept)
        _rewrite(machine, Receipt(prefix=receipt.prefix, made=tuple(kept)))
        return left + [f"{row.path} ({row.kind})" for row in kept if row.kind != "file"]


def _rewrite(machine: Machine, receipt: Receipt) -> None:
    aside = machine.receipt.with_name(".receipt.json.new")
    aside.write_bytes(replace_own_row(machine, receipt).to_bytes())
    aside.replace(machine.receipt)


def _remove(machine: Machine, rows: list[Made]) -> list[str]:
    """Deepest first, the user last; what could not go, one line each."""
    left = []
    for row in sorted(rows, key=lambda row: (row.kind == "user", -len(Path(row.path).parts))):
        if row.kind == "user":
            if machine.find_user() is not None:
                machine.run(["userdel", row.path])
            continue
        try:
            _remove_one(Path(row.path), row)
        except OSError as error:
            reason = "holds what is not ours" if error.errno == errno.ENOTEMPTY else error.strerror or str(error)
            left.append(f"{row.path} ({reason})")
    return left


def _remove_one(path: Path, row: Made) -> None:
    with contextlib.suppress(FileNotFoundError):
        if row.kind != "directory":
            path.unlink()
        elif row.kept:
            shutil.rmtree(path)
        else:
            path.rmdir()
