"""The receipt: exactly what is on the machine because of us, and which release runs."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

from appliance.host.changes import Made
from appliance.host.failures import Exit, HostFailure
from appliance.host.machine import Machine

SCHEMA = "appliance_receipt.v1"


@dataclass(frozen=True, slots=True)
class Release:
    """One executable on the machine. `name`: its folder, `<version>-<first 12 of its SHA-256>`."""

    name: str
    version: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Receipt:
    """What was installed. `current` None: only what an uninstall keeps is left. `previous`: what a rollback takes."""

    prefix: str
    made: tuple[Made, ...] = ()
    current: Release | None = None
    previous: Release | None = None

    def with_made(self, made: Iterable[Made]) -> "Receipt":
        """What was made again replaces what the receipt had of it; what was kept stays kept."""
        rows = {(row.kind, row.path): row for row in self.made}
        for row in made:
            rows[row.kind, row.path] = row
        return replace(self, made=tuple(rows.values()))

    def without(self, below: str) -> "Receipt":
        """Forget a folder and what is in it."""
        return replace(
            self, made=tuple(row for row in self.made if row.path != below and not row.path.startswith(f"{below}/"))
        )

    def sha256_of(self, path: str) -> str | None:
        """The digest that a file had when we wrote it."""
        return next((row.sha256 for row in self.made if row.path == path and row.kind == "file"), None)

    def to_bytes(self) -> bytes:
        return (json.dumps({"schema": SCHEMA, **asdict(self)}, indent=1) + "\n").encode()


def load_receipt(machine: Machine) -> Receipt | None:
    """None if nothing was installed. Raises HostFailure if it cannot be understood."""
    try:
        data: dict[str, Any] = json.loads(machine.receipt.read_bytes())
        data = _without_schema(data)
        made = tuple(Made(**row) for row in data.pop("made"))
        current, previous = (Release(**row) if (row := data.pop(name)) else None for name in ("current", "previous"))
        return Receipt(made=made, current=current, previous=previous, **data)
    except FileNotFoundError:
        return None
    except PermissionError:
        raise HostFailure(f"{machine.receipt} may be read by root alone: use sudo", Exit.NO_PERMISSION) from None
    except (ValueError, TypeError, KeyError) as error:
        raise HostFailure(
            f"{machine.receipt} cannot be read ({error}): restore it from a backup, or remove it and install again",
            Exit.DATA,
        ) from None


def _without_schema(data: dict[str, Any]) -> dict[str, Any]:
    if data.pop("schema") != SCHEMA:
        raise ValueError("another schema")
    return data


def load_installed(machine: Machine) -> Receipt:
    """The receipt of a box that has a release. Raises HostFailure."""
    receipt = load_receipt(machine)
    if receipt is None or receipt.current is None:
        raise HostFailure("the appliance is not installed here: run `appliance install`", Exit.UNAVAILABLE)
    return receipt
