"""Answers: what a model said, read from the JSON of a chat completion. Pure."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from appliance.agents.transcript import Requested
from appliance.protocol.ids import is_id

MAX_ARGUMENT_CHARS = 1_000_000  # as large as a request may be by default


class InvalidToolCall(ValueError):
    """A tool call that is none: the message says why. The model's fault, which ends a run."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What was said, and the tools that were asked for, in their order."""

    text: str
    calls: tuple[Requested, ...]


def read_text(response: bytes) -> str:
    """What was said, "" where nothing was."""
    content = _message(response).get("content")
    if isinstance(content, list):
        return "".join(part.get("text") or "" for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def read_calls(response: bytes, seed: str) -> tuple[Requested, ...]:
    """The tool calls, with ids made of `seed` and their place: the same answer has the same ids. Raises InvalidToolCall."""
    entries = _message(response).get("tool_calls") or []
    if not isinstance(entries, list):
        raise InvalidToolCall("tool_calls is no list")
    return tuple(_read_call(entry, f"{seed}/{number}") for number, entry in enumerate(entries))


def _message(response: bytes) -> Mapping[str, Any]:
    """Backends check that an answer is a JSON object; a model server may still leave the rest out."""
    try:
        message = json.loads(response)["choices"][0]["message"]
    except (ValueError, LookupError, TypeError):
        return {}
    return message if isinstance(message, dict) else {}


def _read_call(entry: object, seed: str) -> Requested:
    function = entry.get("function") if isinstance(entry, dict) else None
    if not isinstance(function, dict):
        raise InvalidToolCall("a tool call has no function")
    name = function.get("name")
    if not isinstance(name, str) or not name:
        raise InvalidToolCall("a tool call has no name")
    return Requested(_call_id(seed), name, _read_arguments(name, function.get("arguments")))


def _read_arguments(name: str, arguments: object) -> Mapping[str, Any]:
    """A string of JSON, as OpenAI has it, or the object itself, as others do; nothing at all is no arguments."""
    if isinstance(arguments, str):
        if len(arguments) > MAX_ARGUMENT_CHARS:
            raise InvalidToolCall(f"the arguments of {name[:64]} are longer than {MAX_ARGUMENT_CHARS} characters")
        try:
            arguments = json.loads(arguments, parse_constant=_refuse) if arguments.strip() else {}
        except (ValueError, RecursionError):
            raise InvalidToolCall(f"the arguments of {name[:64]} are no JSON") from None
    if arguments is None:
        return {}
    if not isinstance(arguments, dict):
        raise InvalidToolCall(f"the arguments of {name[:64]} are no object")
    return arguments


def _refuse(text: str) -> Any:
    raise ValueError(text)


def _call_id(seed: str) -> str:
    made = f"toolcall-{hashlib.sha256(seed.encode('ascii')).hexdigest()[:24]}"
    if not is_id("toolcall", made):
        raise AssertionError("unreachable: 24 hex digits are an id")
    return made
