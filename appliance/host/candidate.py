"""A candidate: an executable that may become the release, looked at before anything is changed."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance.host.failures import Exit, HostFailure
from appliance.host.machine import Machine
from appliance.host.receipt import Release
from appliance.host.seal import BrokenSeal, check_seal
from appliance.host.smoke import Door

CREDENTIAL_SOURCE = "$CREDENTIALS_DIRECTORY/tokens"  # as `config show` names the file that the unit loads


@dataclass(frozen=True, slots=True)
class Candidate:
    """A whole executable that runs here. `unit`: the service as it wants to be run, for this machine's prefix."""

    file: Path
    release: Release
    unit: bytes


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a configuration comes to, as far as an installer cares."""

    api: Door
    observability: Door | None
    draws: bool
    token_from_file: bool


def inspect(machine: Machine, file: Path, *, sha256: str = "") -> Candidate:
    """Check that a file is whole, is what `sha256` says where given, and runs. Raises HostFailure."""
    try:
        found = check_seal(file)
    except BrokenSeal as broken:
        raise HostFailure(str(broken), Exit.DATA) from None
    except OSError as error:
        raise HostFailure(f"{file} cannot be read ({error.strerror})", Exit.DATA) from None
    if sha256 and found != sha256.lower():
        raise HostFailure(f"{file} has the SHA-256 {found}, not {sha256}: fetch it again", Exit.DATA)
    if not file.stat().st_mode & 0o111:
        raise HostFailure(f"{file} may not be run: chmod +x {file}", Exit.DATA)
    facts = _facts(machine, file)
    version = str(facts.get("version", ""))
    if not re.fullmatch(r"\d+(\.\d+)*[a-z0-9.+]*", version):
        raise HostFailure(f"{file} does not say its version: it is no release of the appliance", Exit.DATA)
    unit = machine.run([str(file), "install", "--show-unit", "--prefix", str(machine.prefix)])
    if unit.code != 0:
        raise HostFailure(f"{file} does not say how it wants to be run: {unit.output[:300]}", Exit.DATA)
    return Candidate(file, Release(f"{version}-{found[:12]}", version, found), unit.output.encode() + b"\n")


def _facts(machine: Machine, file: Path) -> Mapping[str, Any]:
    ran = machine.run([str(file), "version", "--json"])
    try:
        facts = json.loads(ran.output) if ran.code == 0 else None
    except ValueError:
        facts = None
    if not isinstance(facts, dict):
        why = ran.output[-300:] or f"exit {ran.code}"
        raise HostFailure(f"{file} does not run on this machine: {why}", Exit.SOFTWARE)
    return facts


def is_older(version: str, than: str) -> bool:
    """Compare the numbers of two versions; what follows them does not count."""
    return _numbers(version) < _numbers(than)


def _numbers(version: str) -> tuple[int, ...]:
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, found[0].split("."))) if found else ()


def read_wanted(machine: Machine, file: Path) -> Wanted:
    """What the box's configuration comes to, by the word of the executable that is to serve. Raises HostFailure."""
    ran = machine.run(
        [
            "env",
            f"CREDENTIALS_DIRECTORY={machine.etc}",
            f"STATE_DIRECTORY={machine.state}",
            f"APPLIANCE_ENV_FILE={machine.etc / 'appliance.env'}",
            str(file),
            "config",
            "show",
            "--json",
        ]
    )
    if ran.code != 0:
        raise HostFailure(f"the configuration in {machine.etc} is not good: {ran.output[:500]}", Exit.CONFIGURATION)
    shown = json.loads(ran.output)
    settings = {name: row["value"] for name, row in shown["settings"].items()}
    tls = bool(settings["GATEWAY_TLS_CERT_PATH"])
    observability = None
    if settings["OBSERVABILITY_ENABLED"]:
        observability = Door(settings["OBSERVABILITY_HOST"], settings["OBSERVABILITY_PORT"], tls=False)
    return Wanted(
        api=Door(settings["GATEWAY_HOST"], settings["GATEWAY_PORT"], tls),
        observability=observability,
        draws=settings["IMAGES_BACKEND"] == "mock",
        token_from_file=shown["tokens"]["source"] == CREDENTIAL_SOURCE,
    )
