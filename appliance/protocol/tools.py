"""Tools on the wire: a call, checked; its hash; the answer of a run and the record that is kept of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from appliance.protocol.canonical import canonical_json, sha256_hex
from appliance.protocol.errors import InvalidRequest

_CALL_FIELDS = frozenset({"name", "arguments"})


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A tool by its name, and the arguments as they were received; whether they fit is the bus's to say."""

    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Invocation:
    """A run that ended. `result`: the tool's own fields and, where it failed, what went wrong. Times in milliseconds."""

    replay_id: str
    request_hash: str
    tool: str
    version: str
    ok: bool
    runtime_ms: float
    cpu_ms: float
    io_bytes: int
    arguments: Mapping[str, Any]
    result: Mapping[str, Any]

    def body(self) -> dict[str, Any]:
        """The answer of contract 6."""
        return {**self._measured(), "ok": self.ok, **self.result}

    def record(self, *, ts: float, owner: str) -> dict[str, Any]:
        """What is kept; the log adds `seq` and the hash chain. `ts`: Unix seconds; `owner`: the token's fingerprint."""
        return {
            **self._measured(),
            "ts": round(ts, 6),
            "tool": self.tool,
            "version": self.version,
            "ok": self.ok,
            "args": self.arguments,
            "result": self.result,
            "owner": owner,
        }

    def _measured(self) -> dict[str, Any]:
        return {
            "replay_id": self.replay_id,
            "request_hash": self.request_hash,
            "tool_runtime_ms": self.runtime_ms,
            "tool_cpu_ms": self.cpu_ms,
            "tool_io_bytes": self.io_bytes,
        }


def request_hash(tool: str, version: str, arguments: Mapping[str, Any]) -> str:
    """SHA-256 of the canonical JSON of what was asked: the same request has the same hash, everywhere and always."""
    asked = {"tool": tool, "version": version, "arguments": arguments}
    return sha256_hex(canonical_json(asked).encode("ascii"))


def parse_arguments(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """The arguments in the body of `POST /v1/tools/{name}`: `{"arguments": {...}}`, or the arguments themselves.

    An object whose one key is `arguments` is the former. Raises InvalidRequest.
    """
    return _object(body["arguments"]) if set(body) == {"arguments"} else body


def parse_call(body: Mapping[str, Any]) -> ToolCall:
    """The body of `POST /v1/tools`: `{"name", "arguments"?}`. Raises InvalidRequest."""
    for key in body:
        if key not in _CALL_FIELDS:
            raise InvalidRequest(f"{key[:64]!r} is unknown here: send name and arguments.", param=key[:64])
    name = body.get("name")
    if not isinstance(name, str) or not name:
        raise InvalidRequest("name must be the name of a tool: GET /v1/tools lists them.", param="name")
    return ToolCall(name, _object(body.get("arguments", {})))


def _object(value: object) -> Mapping[str, Any]:
    if isinstance(value, dict):
        return value
    raise InvalidRequest("arguments must be an object, {} where there are none.", param="arguments")
