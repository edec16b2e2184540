"""Build information: what the executable was made of, as its build wrote it. Light: `appliance version` reads it."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RESOURCE = "buildinfo.json"  # beside the package; `tools.devtools.bom` writes it
SCHEMA = "appliance_build.v1"


@dataclass(frozen=True, slots=True)
class Distribution:
    """One package in the executable. `sha256`: of the archive it was installed from. `use`: `runtime` or `build`."""

    name: str
    version: str
    licence: str | None
    sha256: str
    use: str


@dataclass(frozen=True, slots=True)
class Library:
    """One shared object that no package brought. `sha256`: as it was before stripping. `package`: the system's."""

    name: str
    sha256: str
    package: str | None


@dataclass(frozen=True, slots=True)
class BuildInfo:
    """What an executable holds. `commit`, `tree`: git's, None if it was not built in a clone; `changed`: whether
    files differed from that commit. `glibc_floor`: the oldest glibc that it runs on, as `2.35`."""

    version: str
    commit: str | None
    tree: str | None
    changed: bool | None
    python: str
    machine: str
    glibc_floor: str
    distributions: tuple[Distribution, ...]
    libraries: tuple[Library, ...]


def load_buildinfo(folder: Path | None = None) -> BuildInfo | None:
    """The running executable's; None where the source runs. Raises ValueError if it is not what a build writes."""
    path = (folder or Path(__file__).parent.parent) / RESOURCE
    try:
        bill: dict[str, Any] = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    if bill.pop("schema", None) != SCHEMA:
        raise ValueError(f"{RESOURCE} is of another schema")
    distributions = tuple(Distribution(**row) for row in bill.pop("distributions"))
    libraries = tuple(Library(**row) for row in bill.pop("libraries"))
    return BuildInfo(distributions=distributions, libraries=libraries, **bill)
