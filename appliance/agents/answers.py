"""Answers: what a model said, read from the bytes that its server sent: a chat completion, or the stream of one. Pure."""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from appliance.agents.transcript import Requested
from appliance.protocol.canonical import canonical_json
from appliance.protocol.chat_whole import join_halves, put_together
from appliance.protocol.errors import UpstreamFailed
from appliance.protocol.ids import Prefix, is_id
from appliance.protocol.strictjson import MAX_NESTING, nesting

MAX_ARGUMENT_CHARS = 1_000_000  # as large as a request may be by default
MAX_NAME_CHARS = 256  # OpenAI has 64, tools of MCP servers have their server's name before their own

# A JSON text that begins like this and is one cannot be a stream with anything in it: a line `data:` is no JSON.
_OBJECT = re.compile(rb"(?:\xef\xbb\xbf)?[ \t\r\n]*\{")


class InvalidToolCall(ValueError):
    """A tool call that is none: the message says why. The model's fault, which ends a run."""


def read_completion(response: bytes) -> Mapping[str, Any]:
    """The chat completion in the bytes that were received: they are one, or they are the event stream of one.

    {} where they are neither. The same bytes are the same completion, call ids that the server left out included: whoever
    runs calls has ids of `read_calls`. Backends check that an answer is a JSON object; a model server may still leave the
    rest out.
    """
    whole = _object(response) if _OBJECT.match(response) else None
    if whole is not None:
        return whole
    try:
        return put_together(response, "", no_id)
    except UpstreamFailed:
        return {}


def no_id(prefix: Prefix) -> str:
    """Stands where a server gave no id and nobody looks for one."""
    return f"{prefix}-{'0' * 24}"


def read_text(completion: Mapping[str, Any]) -> str:
    """What was said, "" where nothing was."""
    content = _message(completion).get("content")
    if isinstance(content, list):
        texts = (part.get("text") for part in content if isinstance(part, dict))
        return join_halves("".join(text for text in texts if isinstance(text, str)))
    return join_halves(content) if isinstance(content, str) else ""


def read_calls(completion: Mapping[str, Any], seed: str) -> tuple[Requested, ...]:
    """The tool calls, with ids made of `seed` and their place: the same answer has the same ids. Raises InvalidToolCall."""
    entries = _message(completion).get("tool_calls") or []
    if not isinstance(entries, list):
        raise InvalidToolCall("tool_calls is no list")
    return tuple(_read_call(entry, f"{seed}/{number}") for number, entry in enumerate(entries))


def calls_of(turn: int, completion: Mapping[str, Any]) -> tuple[Requested, ...] | None:
    """The calls of an action's answer, ids by turn and place: the same in a fork. None where one of them is none."""
    try:
        return read_calls(completion, str(turn))
    except InvalidToolCall:
        return None


def _object(response: bytes) -> Mapping[str, Any] | None:
    try:
        whole = json.loads(response.decode("utf-8-sig", "replace"))
    except (ValueError, RecursionError):
        return None
    return whole if isinstance(whole, dict) else None


def _message(completion: Mapping[str, Any]) -> Mapping[str, Any]:
    try:
        message = completion["choices"][0]["message"]
    except (LookupError, TypeError):
        return {}
    return message if isinstance(message, dict) else {}


def _read_call(entry: object, seed: str) -> Requested:
    function = entry.get("function") if isinstance(entry, dict) else None
    if not isinstance(function, dict):
        raise InvalidToolCall("a tool call has no function")
    name = function.get("name")
    if not isinstance(name, str) or not name:
        raise InvalidToolCall("a tool call has no name")
    if len(name) > MAX_NAME_CHARS:
        raise InvalidToolCall(f"the name of a tool is longer than {MAX_NAME_CHARS} characters")
    name = join_halves(name)
    return Requested(_call_id(seed), name, _read_arguments(name, function.get("arguments")))


def _read_arguments(name: str, arguments: object) -> Mapping[str, Any]:
    """A string of JSON, as OpenAI has it, or the object itself, as others do; nothing at all is no arguments."""
    if isinstance(arguments, str):
        arguments = _parse(name, arguments) if arguments.strip() else {}
    if arguments is None:
        return {}
    if not isinstance(arguments, dict):
        raise InvalidToolCall(f"the arguments of {name[:64]} are no object")
    return _checked(name, arguments)


def _parse(name: str, text: str) -> object:
    if len(text) > MAX_ARGUMENT_CHARS:
        raise _too_long(name)
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise InvalidToolCall(f"the arguments of {name[:64]} are no JSON") from None


def _checked(name: str, arguments: dict[str, Any]) -> Mapping[str, Any]:
    """Arguments that can be written down and read again as the same: no NaN, no 1e999, no bottomless nesting."""
    try:
        text = canonical_json(arguments)
        again = json.loads(text)
    except (ValueError, RecursionError):
        raise InvalidToolCall(
            f"the arguments of {name[:64]} hold a number that JSON has not, or nest too deep"
        ) from None
    if len(text) > MAX_ARGUMENT_CHARS:
        raise _too_long(name)
    if text.count("[") + text.count("{") > MAX_NESTING and nesting(again) > MAX_NESTING:
        raise InvalidToolCall(f"the arguments of {name[:64]} nest deeper than {MAX_NESTING} levels")
    return dict(again)


def _too_long(name: str) -> InvalidToolCall:
    return InvalidToolCall(f"the arguments of {name[:64]} are longer than {MAX_ARGUMENT_CHARS} characters")


def _call_id(seed: str) -> str:
    made = f"toolcall-{hashlib.sha256(seed.encode('ascii')).hexdigest()[:24]}"
    if not is_id("toolcall", made):
        raise AssertionError("unreachable: 24 hex digits are an id")
    return made
