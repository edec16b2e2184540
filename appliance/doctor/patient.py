"""The patient: everything that a check may look at, and what it answers."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from appliance.backends.looking import Looked
from appliance.config.classes import BackendClass
from appliance.config.errors import ConfigError
from appliance.config.loading import Configuration
from appliance.host.machine import Machine

Verdict = Literal["ok", "warning", "failure"]


@dataclass(frozen=True, slots=True)
class Result:
    """One thing that was looked at. `id` stays the same from release to release; `remedy`: what to do, unless ok."""

    id: str
    verdict: Verdict
    seen: str
    remedy: str | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """What an address answered."""

    status: int
    request_id: str | None
    body: bytes


@dataclass(frozen=True, slots=True)
class Moment:
    """Both clocks at once, in seconds: Unix time, and the monotonic one."""

    wall_s: float
    monotonic_s: float


@dataclass(frozen=True, slots=True)
class Patient:
    """A box. `configuration`: or all its mistakes. `environ`: as the gateway has it. `uid`: whose files the gateway's
    are to be. `began`: when the examination did. `ask`: GET of an address, None if nothing answers in HTTP. `look`: what
    stands behind these classes."""

    environ: Mapping[str, str]
    configuration: Configuration | ConfigError
    machine: Machine
    uid: int
    began: Moment
    now: Callable[[], Moment]
    ask: Callable[[str], Reply | None]
    look: Callable[[tuple[BackendClass, ...]], list[Looked]]
    free: Callable[[Path], "Free"]
    is_frozen: bool = field(default=False)


@dataclass(frozen=True, slots=True)
class Free:
    """Room on a file system, for those who are not root. `files`: None where it does not count them."""

    size_bytes: int
    files: int | None


Check = Callable[[Patient, Configuration], Iterator[Result]]


def nearest(path: Path) -> Path:
    """The path, or the nearest directory above it that is there."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path
