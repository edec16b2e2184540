"""Aliases: the table of them, from MODEL_ALIASES_JSON or a file, and the ones that are built in."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from appliance.config.alias import Alias, AliasMistake, read_alias, shown
from appliance.config.classes import Backends
from appliance.config.errors import Findings
from appliance.config.models import MOCK
from appliance.config.reading import Given

MAX_ALIASES_BYTES = 1_000_000

_EXAMPLE = '{"aliases": {"coder": "ollama:qwen2.5-coder:7b"}}'


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
        raise AliasMistake(f"{shown(unknown[0])} is unknown: write aliases only, as in {_EXAMPLE}")
    if not isinstance(value["aliases"], dict):
        raise AliasMistake(f"`aliases` must be an object: write {_EXAMPLE}")
    return value["aliases"]


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


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise AliasMistake(f"{shown(key)} is there twice: write it once")
        found[key] = value
    return found


def _no_constants(text: str) -> Any:
    raise AliasMistake(f"holds {text}, which is no JSON number: write a number")


def _bounded(digits: str) -> int:
    if len(digits) > 15:
        raise AliasMistake("holds a number of more than 15 digits: write a smaller one")
    return int(digits)
