"""Agents on the wire: what a run is asked for, its hash, and which fields of a transcript are volatile."""

import json
import re
from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Any

from appliance.protocol.canonical import canonical_json, sha256_hex
from appliance.protocol.chat_fields import check_chat
from appliance.protocol.errors import InvalidRequest

RUNS_LISTED = 20
RUNS_LISTED_MAX = 100

_RUN_FIELDS = frozenset({"agent", "input", "messages", "stream"})
_REPLAY_FIELDS: Mapping[str, frozenset[str]] = {
    "verify": frozenset({"mode"}),
    "fork": frozenset({"mode", "from_step", "model", "stream"}),
}

VOLATILE = frozenset(
    {"ts", "run_id", "replay_id", "runtime_ms", "cpu_ms", "duration_ms", "seq", "prev", "hash", "owner", "forked_from"}
)
"""Fields that differ between two runs of the same thing, wherever they stand in a transcript's own structure.

Times and durations, random ids, the hash chain (it covers the others), and whose run it was; of a model's answer, which
is kept as the text that came, `id` and `created`, of a streamed one those of each event; and where an answer lies beside
its line, the hash of it, which covers those two.
"""
_OPAQUE = frozenset({"arguments", "result", "messages", "spec", "tools"})  # what was said: nothing of it is ours
_ANSWERS_OWN = frozenset({"id", "created"})  # of a model's answer, its tool calls included
_DATA = re.compile(r"(?<![^\r\n])data:([^\r\n]*)")  # a line of an event stream


@dataclass(frozen=True, slots=True)
class RunRequest:
    """What `POST /v1/agent/run` asks for. `messages`: OpenAI's, checked, without nulls."""

    agent: str
    messages: tuple[Mapping[str, Any], ...]
    stream: bool


@dataclass(frozen=True, slots=True)
class ForkRequest:
    """A run again, from a step on. `model` None: the one it had."""

    from_step: int
    model: str | None
    stream: bool


def parse_run(body: Mapping[str, Any]) -> RunRequest:
    """Raises InvalidRequest."""
    _refuse_unknown(body, _RUN_FIELDS)
    agent = body.get("agent", "default")
    if not isinstance(agent, str) or not agent:
        raise InvalidRequest("agent must be the name of an agent.", param="agent")
    return RunRequest(agent, _messages(body), _flag(body, "stream"))


def parse_replay(body: Mapping[str, Any]) -> ForkRequest | None:
    """What to do with a run: fork it, or (None) verify it. Raises InvalidRequest."""
    mode = body.get("mode")
    if not isinstance(mode, str) or mode not in _REPLAY_FIELDS:
        raise InvalidRequest("mode must be verify or fork.", param="mode")
    _refuse_unknown(body, _REPLAY_FIELDS[mode])
    if mode == "verify":
        return None
    step = body.get("from_step")
    if not isinstance(step, int) or isinstance(step, bool) or step < 0:
        raise InvalidRequest("from_step must be the number of a step, from 0.", param="from_step")
    model = body.get("model")
    if model is not None and (not isinstance(model, str) or not model.strip() or len(model) > 256):
        raise InvalidRequest("model must be a model's name, as a chat request would name it.", param="model")
    return ForkRequest(step, model, _flag(body, "stream"))


def run_hash(agent: str, spec: Mapping[str, Any], messages: object, *, backend: str, upstream_model: str) -> str:
    """SHA-256 of the canonical JSON of all that decides a run, non-ASCII as it is. `spec`: AgentSpec.hashed()."""
    asked = {
        "agent": agent,
        "spec": spec,
        "messages": messages,
        "backend": backend,
        "upstream_model": upstream_model,
    }
    return sha256_hex(canonical_json(asked, escape_non_ascii=False).encode("utf-8"))


def without_volatile(value: Any) -> Any:
    """A transcript, or a part of it, without what differs between two runs of the same thing."""
    if isinstance(value, Mapping):
        return {key: _stripped(key, item) for key, item in value.items() if key not in VOLATILE}
    return [without_volatile(item) for item in value] if isinstance(value, list) else value


def _stripped(key: str, value: Any) -> Any:
    if key == "response" and isinstance(value, str):
        try:
            return _without(json.loads(value), _ANSWERS_OWN)
        except (ValueError, RecursionError):
            return _DATA.sub(_stripped_data, value)
    if key == "blobs" and isinstance(value, Mapping):
        return {name: _without(item, {"sha256"}) if name == "response" else item for name, item in value.items()}
    return value if key in _OPAQUE else without_volatile(value)


def _stripped_data(line: re.Match[str]) -> str:
    try:
        return f"data: {canonical_json(_without(json.loads(line[1]), _ANSWERS_OWN))}"
    except (ValueError, RecursionError):
        return line[0]


def _without(value: Any, names: Set[str]) -> Any:
    if isinstance(value, dict):
        return {key: _without(item, names) for key, item in value.items() if key not in names}
    return [_without(item, names) for item in value] if isinstance(value, list) else value


def _messages(body: Mapping[str, Any]) -> tuple[Mapping[str, Any], ...]:
    given, text = body.get("messages"), body.get("input")
    if (given is None) == (text is None):
        raise InvalidRequest("Send either input, a text, or messages, as a chat has them.", param="input")
    if given is None:
        if not isinstance(text, str) or not text.strip():
            raise InvalidRequest("input must be a text that is not empty.", param="input")
        return ({"role": "user", "content": text},)
    check_chat({"messages": given})
    return tuple(_without_nulls(message) for message in given)


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def _flag(body: Mapping[str, Any], name: str) -> bool:
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise InvalidRequest(f"{name} must be true or false.", param=name)
    return bool(value)


def _refuse_unknown(body: Mapping[str, Any], known: frozenset[str]) -> None:
    for key in body:
        if key not in known:
            raise InvalidRequest(f"{key[:64]!r} is unknown here: send {', '.join(sorted(known))}.", param=key[:64])
