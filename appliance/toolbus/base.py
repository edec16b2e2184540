"""What every tool promises the bus: to run once, within its own limits, and to say what came of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from appliance.protocol.tools import ToolSpec


@dataclass(frozen=True, slots=True)
class ToolResult:
    """A run that came to its end: the fields of the answer beside the bus's own, all JSON.

    `io_bytes`: what it read and wrote, for budgets. `cpu_s`: what its processes used, beside our own.
    """

    fields: Mapping[str, Any]
    ok: bool = True
    io_bytes: int = 0
    cpu_s: float = 0.0


class ToolFailed(Exception):
    """A tool could not do what it was asked to: the answer is 200 with `ok: false`, `kind` is its `error_type`."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message


class Tool(Protocol):
    """One tool. Arguments were validated against `spec.parameters` before `run` is called."""

    @property
    def spec(self) -> ToolSpec: ...

    async def run(self, arguments: Mapping[str, Any]) -> ToolResult:
        """Run once. A cancelled run leaves no process, no file and no connection behind. Raises ToolFailed."""
        ...
