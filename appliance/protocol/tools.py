"""Tools on the wire: what may be called, a call, what became of it, and the record that shows it again."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from appliance.protocol.canonical import canonical_json, sha256_hex

ToolSource = Literal["builtin", "registry", "mcp"]


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """What is said of a tool: `parameters` is a JSON Schema (2020-12). `side_effects`: a run may change something."""

    name: str
    version: str
    description: str
    parameters: Mapping[str, Any]
    source: ToolSource
    side_effects: bool


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool asked for by name, with its arguments as they were received."""

    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Invocation:
    """A tool that ran. `fields`: the tool's own result fields, or error, error_type, error_message. Times in ms.

    `line`: the stored record, byte for byte, without its line end.
    """

    replay_id: str
    request_hash: str
    tool: str
    version: str
    ok: bool
    runtime_ms: float
    cpu_ms: float
    io_bytes: int
    fields: Mapping[str, Any]
    line: bytes


def request_hash(tool: str, version: str, arguments: Mapping[str, Any]) -> str:
    """Contract 6: SHA-256 hex of canonical JSON, non-ASCII escaped, arguments as received."""
    return sha256_hex(canonical_json({"tool": tool, "version": version, "arguments": arguments}).encode("ascii"))
