"""What every tool promises, and what it gets and gives."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import trio

from appliance.config.settings import Settings

Arguments = Mapping[str, Any]
Schema = Mapping[str, Any]
Source = Literal["builtin", "registry", "mcp"]

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""A host name and port to its IP addresses, as text. Raises OSError."""

RefreshModels = Callable[[], Awaitable[Mapping[str, Any]]]
"""Ask every class for its models anew: class -> `{"ok", "models" | "error"}`."""


class ToolFailed(Exception):
    """A tool ran and did not do what it was asked. `kind`: a stable word in snake_case; the message says what to change.

    Neither holds a path outside the tool's roots, a secret or anything of the gateway's own.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run gave. `fields`: the tool's own result fields. `io_bytes`: what it read, wrote, sent and received.

    `failure`: it ended badly and still has something to show, such as a program's output. A tool with nothing to show
    raises ToolFailed instead.
    """

    fields: Mapping[str, Any]
    io_bytes: int = 0
    cpu_s: float = 0.0
    failure: ToolFailed | None = None


@dataclass(frozen=True, slots=True)
class Tool:
    """One tool. `parameters`: JSON Schema (2020-12) of its arguments, which `run` gets checked and never changes.

    `side_effects`: a run may change something outside: its record is on the disk before its answer leaves. `run` keeps
    its own deadline, and when it is cancelled, nothing that it started is left. Raises ToolFailed.
    """

    name: str
    version: str
    description: str
    parameters: Schema
    side_effects: bool
    run: Callable[[Arguments], Awaitable[Outcome]] = field(repr=False)
    source: Source = "builtin"


@dataclass(frozen=True, slots=True)
class ToolEnvironment:
    """What built-in tools are made with. `files`: the threads for file work. `own_ports`: where this gateway listens."""

    settings: Settings
    files: trio.CapacityLimiter
    own_ports: frozenset[int]
    resolve: Resolve
    refresh_models: RefreshModels


MakeTool = Callable[[ToolEnvironment], Tool]
