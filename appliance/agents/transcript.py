"""Transcript: what a run was given and what each of its steps consumed; events are what is stored and shown of it.

An event's fields are those of contract 7, and beside them the exact bytes that went to the model and that came back, and
all that a tool was called with and gave. `step` counts model and tool events from 0, over the whole run.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from appliance.config.agent_specs import AgentSpec
from appliance.protocol.canonical import canonical_json, sha256_hex
from appliance.protocol.streams import Usage

ModelKind = Literal["plan", "assistant"]

CANCELLED = "cancelled"
INTERRUPTED = "interrupted"


@dataclass(frozen=True, slots=True)
class Routed:
    """Where a run's model calls go. `parameters`: fields of every call beside model, messages and tools: sampling, with the
    alias's caps applied, and that it asks for a stream (`step.STREAMED`).
    """

    backend: str
    upstream_model: str
    reason: str
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ForkedFrom:
    """The run whose first `step` steps this one shares, and where those were routed."""

    run_id: str
    step: int
    routes: tuple[tuple[int, Routed], ...]


@dataclass(frozen=True, slots=True)
class Head:
    """What a run was given, all of it: the same head and the same answers make the same run.

    `tools`: what the model is offered, as OpenAI has functions, sorted by name. `versions`: of the gateway, and the
    SHA-256 of the tool registry where there is one.
    """

    run_id: str
    agent: str
    spec: AgentSpec
    messages: tuple[Mapping[str, Any], ...]
    routed: Routed
    tools: tuple[Mapping[str, Any], ...]
    request_hash: str
    owner: str
    versions: Mapping[str, str] = field(default_factory=dict)
    forked_from: ForkedFrom | None = None

    def offers(self, tool: str) -> bool:
        return any(offered["function"]["name"] == tool for offered in self.tools)

    def routed_at(self, step: int) -> Routed:
        """Where this step's model call goes, or went in the run that this one was forked from."""
        if self.forked_from is None or step >= self.forked_from.step:
            return self.routed
        return next(routed for from_step, routed in reversed(self.forked_from.routes) if from_step <= step)

    def routes(self) -> tuple[tuple[int, Routed], ...]:
        """Every route of this run with the step from which it holds."""
        if self.forked_from is None:
            return ((0, self.routed),)
        earlier = tuple(pair for pair in self.forked_from.routes if pair[0] < self.forked_from.step)
        return (*earlier, (self.forked_from.step, self.routed))

    def fields(self) -> dict[str, Any]:
        fields: dict[str, Any] = {
            "type": "run_started",
            "turn": None,
            "step": None,
            "run_id": self.run_id,
            "request_hash": self.request_hash,
            "agent": self.agent,
            "tier": self.spec.tier,
            "spec": self.spec.hashed(),
            "messages": list(self.messages),
            "tools": list(self.tools),
            "owner": self.owner,
            "versions": dict(self.versions),
            **_routed_fields(self.routed),
        }
        if self.forked_from is not None:
            fields["forked_from"] = {"run_id": self.forked_from.run_id, "step": self.forked_from.step}
            fields["routes"] = [{"from_step": step, **_routed_fields(one)} for step, one in self.forked_from.routes]
        return fields


@dataclass(frozen=True, slots=True)
class Requested:
    """A tool call that the model asked for. `id` is ours: models repeat theirs, or send none."""

    id: str
    name: str
    arguments: Mapping[str, Any]

    def fingerprint(self) -> str:
        """What makes two calls the same call."""
        return sha256_hex(canonical_json({"name": self.name, "arguments": self.arguments}).encode("ascii"))


@dataclass(frozen=True, slots=True)
class ModelStep:
    """One model call: what was sent and what was received, byte for byte (`step.Answered`), and what was read in that.

    `calls`: of an action alone. `misuses_tools`: it asked for something that is no call, which ends the run.
    """

    kind: ModelKind
    turn: int
    step: int
    request: bytes
    response: bytes
    text: str
    calls: tuple[Requested, ...] = ()
    misuses_tools: bool = False
    usage: Usage | None = None
    duration_ms: float = 0.0

    def fields(self) -> dict[str, Any]:
        fields: dict[str, Any] = {
            "type": self.kind,
            "turn": self.turn,
            "step": self.step,
            "text": self.text,
            "request": self.request.decode("utf-8"),
            "response": self.response.decode("utf-8", "surrogateescape"),
            "duration_ms": self.duration_ms,
        }
        if self.usage is not None:
            fields["usage"] = {
                "prompt_tokens": self.usage.prompt_tokens,
                "completion_tokens": self.usage.completion_tokens,
            }
        if self.calls:
            fields["tool_calls"] = [_call_fields(call) for call in self.calls]
        return fields


@dataclass(frozen=True, slots=True)
class ToolDone:
    """How a tool call ended. `replay_id` None: the bus refused it and nothing ran. `result`: what the model is told."""

    ok: bool
    result: Mapping[str, Any]
    version: str | None = None
    request_hash: str | None = None
    replay_id: str | None = None
    io_bytes: int = 0
    runtime_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class ToolStep:
    """One tool call, run or refused."""

    turn: int
    step: int
    call: Requested
    done: ToolDone

    def fields(self) -> dict[str, Any]:
        return {
            "type": "tool",
            "turn": self.turn,
            "step": self.step,
            "call_id": self.call.id,
            "tool": self.call.name,
            "arguments": dict(self.call.arguments),
            "ok": self.done.ok,
            "result": dict(self.done.result),
            "version": self.done.version,
            "request_hash": self.done.request_hash,
            "replay_id": self.done.replay_id,
            "io_bytes": self.done.io_bytes,
            "runtime_ms": self.done.runtime_ms,
        }


Step = ModelStep | ToolStep


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run ended. `error` None: well. `code`: of a GatewayError that ended it."""

    output_text: str = ""
    error: str | None = None
    code: str | None = None

    @property
    def ok(self) -> bool:
        return self.error is None

    def fields(self, turn: int | None, steps: int) -> dict[str, Any]:
        kind = "run_completed" if self.ok else "run_failed"
        fields: dict[str, Any] = {"type": kind, "turn": turn, "step": None, "steps": steps, "ok": self.ok}
        if self.ok:
            return {**fields, "output_text": self.output_text}
        return {**fields, "error": self.error, **({"code": self.code} if self.code else {})}


@dataclass(frozen=True, slots=True)
class Transcript:
    """A run as far as it is known. `ended` None: it runs, or it was cut off and not yet given its end."""

    head: Head
    steps: tuple[Step, ...] = ()
    ended: Ended | None = None


def transcript_json(events: Sequence[bytes]) -> bytes:
    """The answer of contract 7, from the stored lines: their own bytes stand in it, unchanged.

    A run without its end yet is `ok: false` with the error `running`.
    """
    first = json.loads(events[0])
    last = json.loads(events[-1])
    ended = last if last["type"] in {"run_completed", "run_failed"} else {"ok": False, "error": "running"}
    document = {name: first[name] for name in ("run_id", "request_hash", "agent", "tier", "backend", "upstream_model")}
    document |= {"ok": ended["ok"], "output_text": ended.get("output_text", ""), "error": ended.get("error")}
    if "forked_from" in first:
        document["forked_from"] = first["forked_from"]
    opening = json.dumps(document, separators=(",", ":")).encode("ascii")
    return opening[:-1] + b',"events":[' + b",".join(events) + b"]}"


def _call_fields(call: Requested) -> dict[str, Any]:
    return {"id": call.id, "name": call.name, "arguments": dict(call.arguments)}


def _routed_fields(routed: Routed) -> dict[str, Any]:
    return {
        "backend": routed.backend,
        "upstream_model": routed.upstream_model,
        "router_reason": routed.reason,
        "parameters": dict(routed.parameters),
    }
