"""Models: what each class is named where a request names no model, the scripted class, and the default one."""

import difflib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from appliance.config.classes import (
    BackendClass,
    Backends,
    Models,
    capabilities_of,
    default_health,
)
from appliance.config.errors import Findings
from appliance.config.mock_script import MockScript, ScriptError, load_mock_script
from appliance.config.reading import Given
from appliance.config.settings import Settings

MOCK = "mock"
BUILTIN = "builtin"

_MOCK_LIMIT = 4
# Servers of one model take any name, as llama.cpp's does; the others say which they have.
_ANY_MODEL = "default"
_LANGUAGE = frozenset({"chat", "embeddings", "rerank"})
_MLX = "local_mlx"


def name_models(settings: Settings, classes: dict[str, BackendClass], legacy: Mapping[str, str]) -> None:
    """Fill in the models of every class that has none of its own."""
    mlx = legacy.get("mlx", _MLX)
    for name, one in classes.items():
        if not one.models.strong and one.capabilities & _LANGUAGE:
            classes[name] = replace(one, models=_default_models(one, settings, mlx=name in {mlx, _MLX}))


def _default_models(one: BackendClass, settings: Settings, *, mlx: bool) -> Models:
    if one.provider == "mock_chat":
        name = one.script.names[0] if one.script else MOCK
        return Models(name, name)
    if one.provider == "ollama":
        return Models(settings.ollama_model_strong, settings.ollama_model_fast)
    return Models(settings.mlx_model_strong, settings.mlx_model_fast) if mlx else Models(_ANY_MODEL, _ANY_MODEL)


def add_mock_class(given: Given, classes: dict[str, BackendClass], findings: Findings) -> None:
    """MOCK_CHAT_SCRIPT adds the class `mock`, unless the operator's file has one; its script is for all of its kind."""
    if not given.settings.mock_chat_script:
        return
    scripted = classes.setdefault(MOCK, _mock_class())
    if scripted.provider != "mock_chat":
        where = given.where("mock_chat_script")
        findings.refuse(where, "adds a class `mock`, which the backends file has already: rename that one")
    script = _load_script(given, findings)
    for name, one in classes.items():
        if one.provider == "mock_chat":
            classes[name] = replace(one, script=script)


def _load_script(given: Given, findings: Findings) -> MockScript | None:
    """None: the builtin one."""
    asked = given.settings.mock_chat_script.strip()
    if asked == BUILTIN:
        return None
    try:
        return load_mock_script(Path(asked).expanduser())
    except (ScriptError, RuntimeError) as error:  # RuntimeError: a home that nobody has
        findings.refuse(given.where("mock_chat_script"), f"{error}: write `builtin`, or the path of a script")
        return None


def _mock_class() -> BackendClass:
    capabilities = capabilities_of("mock_chat")
    return BackendClass(
        name=MOCK,
        base_url="",
        provider="mock_chat",
        capabilities=capabilities,
        limits=dict.fromkeys(sorted(capabilities), _MOCK_LIMIT),
        health=default_health("mock_chat"),
        description="the scripted model",
        required=False,
    )


def choose_default_backend(given: Given, backends: Backends, aliases: Mapping[str, Any], findings: Findings) -> Given:
    """DEFAULT_BACKEND as the name of a class. Where nobody set it: the scripted model if nothing real was configured,
    `ollama` if there is one, else the first class that chats."""
    if given.is_set("default_backend"):
        return _check_default(given, backends, findings)
    able = [one.name for one in backends.classes.values() if "chat" in one.capabilities]
    if MOCK in able and "default" not in aliases and not _is_real(given, backends):
        return _with_default(given, MOCK, "MOCK_CHAT_SCRIPT, and no other backend was configured")
    if given.settings.default_backend in able or not able:
        return given
    return _with_default(given, able[0], "the first class that chats")


def _is_real(given: Given, backends: Backends) -> bool:
    """Whether the operator named a backend that chats; the embedded address of Ollama is only a guess."""
    if given.settings.backends_config_path is None:
        return given.is_set("ollama_base_url") or given.is_set("mlx_base_url")
    return any("chat" in one.capabilities and one.base_url for one in backends.classes.values())


def _check_default(given: Given, backends: Backends, findings: Findings) -> Given:
    asked = given.settings.default_backend.strip().lower()
    name = backends.legacy_mapping.get(asked, asked)
    able = [one.name for one in backends.classes.values() if "chat" in one.capabilities]
    if name in able:
        return _with_default(given, name, given.origins["default_backend"])
    if not findings.mistakes or backends.classes:  # a file that could not be read has been refused already
        near = difflib.get_close_matches(name, able, n=1)
        advice = near[0] if near else " or ".join(able) or "the name of a class that chats"
        what = "does no chat" if name in backends.classes else "is no backend class"
        findings.refuse(given.where("default_backend"), f"{asked[:60]!r} {what}: write {advice}")
    return given


def _with_default(given: Given, name: str, origin: str) -> Given:
    settings = given.settings.model_copy(update={"default_backend": name})
    return Given(settings, {**given.origins, "default_backend": origin})
