"""Aliases: names for a model on a class, with what may be asked of it, from MODEL_ALIASES_JSON or a file."""

import difflib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance.config.classes import Backends
from appliance.config.errors import Findings
from appliance.config.models import MOCK
from appliance.config.reading import Given

MAX_ALIASES_BYTES = 1_000_000
MAX_TOKENS = 100_000_000  # more than any model has; a slip of the hand, not a limit

_NAME = re.compile(r"[!-~]{1,128}")  # it goes out in a header
_EXAMPLE = '{"aliases": {"coder": "ollama:qwen2.5-coder:7b"}}'
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


def read_aliases(given: Given, backends: Backends, findings: Findings) -> dict[str, Alias]:
    """The operator's aliases by name; each one that cannot be used is refused."""
    source = _read_source(given, findings)
    if source is None:
        return {}
    where, text = source
    try:
        entries = parse_aliases(text)
    except AliasMistake as mistake:
        findings.refuse(where, str(mistake))
        return {}
    aliases: dict[str, Alias] = {}
    for name, raw in entries.items():
        try:
            alias = read_alias(name, raw, backends)
            _check_new(alias, aliases)
        except AliasMistake as mistake:
            findings.refuse(f"{where}: aliases.{name[:128]}", str(mistake))
            continue
        aliases[alias.name] = alias
    return aliases


def built_in_aliases(default_backend: str, backends: Backends) -> dict[str, Alias]:
    """`default` and `fast` of the default backend, and the scripted model under its own name."""
    built_in = {}
    default = backends.classes.get(default_backend)
    if default is not None:
        built_in["default"] = Alias("default", default.name, default.models.strong)
        built_in["fast"] = Alias("fast", default.name, default.models.fast)
    mock = backends.classes.get(MOCK)
    if mock is not None and mock.provider == "mock_chat":
        built_in[MOCK] = Alias(MOCK, mock.name, mock.models.strong)
    return {name: alias for name, alias in built_in.items() if alias.model}


def parse_aliases(text: str) -> Mapping[str, Any]:
    """The object name -> alias, unread. Raises AliasMistake."""
    try:
        value = json.loads(text, object_pairs_hook=_no_repeats, parse_constant=_no_constants, parse_int=_bounded)
    except json.JSONDecodeError as error:
        raise AliasMistake(
            f"is no JSON at line {error.lineno} column {error.colno}: {error.msg}: write {_EXAMPLE}"
        ) from None
    except RecursionError:
        raise AliasMistake(f"is nested too deeply: write {_EXAMPLE}") from None
    if not isinstance(value, dict) or "aliases" not in value:
        raise AliasMistake(f"has no `aliases`: write {_EXAMPLE}")
    if unknown := [key for key in value if key != "aliases"]:
        raise AliasMistake(f"{_shown(unknown[0])} is unknown: write aliases only, as in {_EXAMPLE}")
    if not isinstance(value["aliases"], dict):
        raise AliasMistake(f"`aliases` must be an object: write {_EXAMPLE}")
    return value["aliases"]


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
        raise AliasMistake(f'{_shown(text)} must be "<class>:<model>": write for example "ollama:qwen2.5:7b"')
    return {"backend": backend.strip(), "model": model.strip()}


def _read_long(raw: Any) -> dict[str, Any]:
    if not isinstance(raw, dict):
        raise AliasMistake('must be text or an object: write "ollama:qwen2.5:7b"')
    read: dict[str, Any] = {}
    for key, value in raw.items():
        if key not in _READERS:
            near = difflib.get_close_matches(key, _READERS, n=1)
            raise AliasMistake(
                f"{_shown(key)} is unknown: write {near[0] if near else 'one of ' + ', '.join(_READERS)}"
            )
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
    raise AliasMistake(f"`backend`: {_shown(name)} is no backend class: write {hint}")


def _check_name(name: str, backend_class: str, backends: Backends) -> None:
    """An alias goes before everything else that a model name may mean, so it must not mean something else."""
    if name == _AUTO:
        raise AliasMistake("is the router's own word: write `default`, which auto leads to")
    same = backends.legacy_mapping.get(name, name)
    if same in backends.classes and same != backend_class:
        raise AliasMistake(f"is the name of a backend class, and leads to {backend_class}: write another name")


def _check_new(alias: Alias, aliases: Mapping[str, Alias]) -> None:
    if alias.name in aliases:
        raise AliasMistake("is there twice, in other capitals: write it once")


def _read_source(given: Given, findings: Findings) -> tuple[str, str] | None:
    """The text with the aliases and its place: the variable before the file."""
    if given.settings.model_aliases_json:
        return given.where("model_aliases_json"), given.settings.model_aliases_json
    path = given.settings.model_aliases_path
    if path is None:
        return None
    try:
        return str(path), _read_file(path)
    except OSError as error:
        reason = error.strerror or "unreadable"
        findings.refuse(str(path), f"cannot be read ({reason}): name a readable file in MODEL_ALIASES_PATH")
    except ValueError as error:
        findings.refuse(str(path), str(error))
    return None


def _read_file(path: Path) -> str:
    with path.open("rb") as file:
        data = file.read(MAX_ALIASES_BYTES + 1)
    if len(data) > MAX_ALIASES_BYTES:
        raise AliasMistake(f"is larger than {MAX_ALIASES_BYTES} bytes: write aliases only")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise AliasMistake("is not UTF-8: save the file as UTF-8") from None


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


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    for position, (key, _) in enumerate(pairs):
        if any(key == other for other, _ in pairs[:position]):
            raise AliasMistake(f"{_shown(key)} is there twice: write it once")
    return found


def _no_constants(text: str) -> Any:
    raise AliasMistake(f"holds {text}, which is no JSON number: write a number")


def _bounded(digits: str) -> int:
    if len(digits) > 15:
        raise AliasMistake("holds a number of more than 15 digits: write a smaller one")
    return int(digits)


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:60]}...")


_READERS: Mapping[str, Callable[[str, object], Any]] = {
    "backend": _read_name,
    "model": _read_name,
    "context_window": _read_tokens,
    "tools": _read_flag,
    "max_tokens_cap": _read_tokens,
    "temperature_cap": _read_temperature,
}
