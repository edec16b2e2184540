"""Alias: a model on a class under another name, with what may be asked of it, read strictly from its JSON."""

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from appliance.config.classes import Backends

MAX_TOKENS = 100_000_000  # more than any model has; a slip of the hand, not a limit

_NAME = re.compile(r"[!-~]{1,128}")  # it goes out in a header
_AUTO = "auto"


@dataclass(frozen=True, slots=True)
class Alias:
    """A model under another name. `name` is in lower case. None: nothing said, nothing capped.

    `context_window` and `max_tokens_cap` are in tokens. `tools` False: a request with tools is refused.
    """

    name: str
    backend_class: str
    model: str
    context_window: int | None = None
    tools: bool | None = None
    max_tokens_cap: int | None = None
    temperature_cap: float | None = None


class AliasMistake(ValueError):
    """An alias that cannot be used; the message names it and its key."""


def read_alias(name: str, raw: Any, backends: Backends) -> Alias:
    """One alias, from its short form `<class>:<model>` or its long one. Raises AliasMistake."""
    if not _NAME.fullmatch(name):
        raise AliasMistake("is no name: write up to 128 visible ASCII characters, without blanks")
    fields = _read_short(raw) if isinstance(raw, str) else _read_long(raw)
    backend_class = _resolve_class(fields.pop("backend"), backends)
    _check_name(name.lower(), backend_class, backends)
    return Alias(name=name.lower(), backend_class=backend_class, **fields)


def _read_short(text: str) -> dict[str, Any]:
    backend, colon, model = text.partition(":")
    if not colon or not backend.strip() or not model.strip():
        raise AliasMistake(f'{shown(text)} must be "<class>:<model>": write for example "ollama:qwen2.5:7b"')
    return {"backend": backend.strip(), "model": model.strip()}


def _read_long(raw: Any) -> dict[str, Any]:
    if not isinstance(raw, dict):
        raise AliasMistake('must be text or an object: write "ollama:qwen2.5:7b"')
    read: dict[str, Any] = {}
    for key, value in raw.items():
        if key not in _READERS:
            near = difflib.get_close_matches(key, _READERS, n=1)
            raise AliasMistake(f"{shown(key)} is unknown: write {near[0] if near else 'one of ' + ', '.join(_READERS)}")
        if value is not None:
            read[key] = _READERS[key](key, value)
    for key in ("backend", "model"):
        if key not in read:
            raise AliasMistake(f'has no `{key}`: write {{"backend": "ollama", "model": "qwen2.5:7b"}}')
    return read


def _resolve_class(name: str, backends: Backends) -> str:
    found = backends.legacy_mapping.get(name.lower(), name.lower())
    if found in backends.classes:
        return found
    near = difflib.get_close_matches(found, backends.classes, n=1)
    hint = near[0] if near else f"one of {', '.join(backends.classes)}"
    raise AliasMistake(f"`backend`: {shown(name)} is no backend class: write {hint}")


def _check_name(name: str, backend_class: str, backends: Backends) -> None:
    """An alias goes before everything else that a model name may mean, so it must not mean something else."""
    if name == _AUTO:
        raise AliasMistake("is the router's own word: write `default`, which auto leads to")
    same = backends.legacy_mapping.get(name, name)
    if same in backends.classes and same != backend_class:
        raise AliasMistake(f"is the name of a backend class, and leads to {backend_class}: write another name")


def _read_name(key: str, value: object) -> str:
    if isinstance(value, str) and value.strip() and value.isprintable():
        return value.strip()
    raise AliasMistake(f"`{key}` must be text")


def _read_flag(key: str, value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise AliasMistake(f"`{key}` must be true or false, without quotes")


def _read_tokens(key: str, value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MAX_TOKENS:
        return value
    raise AliasMistake(f"`{key}` must be a whole number of tokens from 1 to {MAX_TOKENS}")


def _read_temperature(key: str, value: object) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 2:
        return float(value)
    raise AliasMistake(f"`{key}` must be a number from 0 to 2")


def shown(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:60]}...")


_READERS: Mapping[str, Callable[[str, object], Any]] = {
    "backend": _read_name,
    "model": _read_name,
    "context_window": _read_tokens,
    "tools": _read_flag,
    "max_tokens_cap": _read_tokens,
    "temperature_cap": _read_temperature,
}
