"""Backends file: the operator's classes (contract 5), read strictly, each mistake with its line and key."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, cast, get_args

from appliance.config.classes import (
    BackendClass,
    Backends,
    Capability,
    HealthPaths,
    Models,
    OnDisconnect,
    PayloadPolicy,
    Provider,
    Responses,
    capabilities_of,
    default_health,
    without_version,
)
from appliance.config.errors import Findings
from appliance.config.marked_yaml import Entry, YamlMistake, load_marked_yaml
from appliance.config.values import parse_base_url

MAX_LIMIT = 1024
MAX_IMAGE_BYTES = 64 * 1024 * 1024  # threats.md: the most that is decoded of one picture

_NAME = re.compile(r"[a-z0-9_][a-z0-9_.-]{0,63}")
_HEALTH_PATH = re.compile(r"/[!-~]*")
_CLASS_KEYS = (
    "base_url", "provider", "description", "required", "supported_capabilities", "concurrency_limits", "health",
    "payload_policy", "on_disconnect", "models", "responses",
)  # fmt: skip


def read_backends_file(file: Path, variables: Mapping[str, str], findings: Findings) -> Backends:
    """All classes that could be read; each one that could not is refused with its first mistake."""
    try:
        document = load_marked_yaml(file, variables)
        top = document.known(("backends", "legacy_mapping"))
        entries = _require(document, top, "backends", "{ollama: {provider: ollama, ...}}").mapping()
        _check_not_empty(top["backends"], entries)
        legacy = _read_legacy(top["legacy_mapping"], entries) if "legacy_mapping" in top else {}
    except YamlMistake as mistake:
        findings.refuse(mistake.mistake.where, mistake.mistake.message)
        return Backends({}, {})
    except OSError as error:
        findings.refuse(str(file), f"cannot be read ({error.strerror}): name a readable file in BACKENDS_CONFIG_PATH")
        return Backends({}, {})
    return Backends(_read_classes(entries, findings), legacy)


def _check_not_empty(entry: Entry, entries: Mapping[str, Entry]) -> None:
    if not entries:
        raise entry.mistake("has no classes: write some, or do without the file for the embedded ones")


def _read_classes(entries: Mapping[str, Entry], findings: Findings) -> dict[str, BackendClass]:
    classes: dict[str, BackendClass] = {}
    for name, entry in entries.items():
        try:
            classes[name] = _read_class(name, entry, findings)
        except YamlMistake as mistake:
            findings.refuse(mistake.mistake.where, mistake.mistake.message)
    return classes


def _read_class(name: str, entry: Entry, findings: Findings) -> BackendClass:
    _check_name(name, entry)
    keys = entry.known(_CLASS_KEYS)
    provider = cast("Provider", _require(entry, keys, "provider", "ollama").choice(get_args(Provider)))
    capabilities = _read_capabilities(
        _require(entry, keys, "supported_capabilities", "[images]"), capabilities_of(provider), provider
    )
    return BackendClass(
        name=name,
        base_url=_read_base_url(keys["base_url"], provider) if "base_url" in keys else "",
        provider=provider,
        capabilities=capabilities,
        limits=_read_limits(keys["concurrency_limits"], capabilities, findings) if "concurrency_limits" in keys else {},
        health=_read_health(keys["health"], provider) if "health" in keys else default_health(provider),
        description=keys["description"].text() if "description" in keys else "",
        required=keys["required"].flag() if "required" in keys else True,
        payload_policy=_read_payload_policy(keys["payload_policy"]) if "payload_policy" in keys else PayloadPolicy(),
        on_disconnect=cast("OnDisconnect", keys["on_disconnect"].choice(get_args(OnDisconnect)))
        if "on_disconnect" in keys
        else "cancel",
        models=_read_models(keys["models"]) if "models" in keys else Models(),
        responses=_read_responses(keys["responses"], provider) if "responses" in keys else "translated",
    )


def _check_name(name: str, entry: Entry) -> None:
    if not _NAME.fullmatch(name):
        raise entry.mistake("is no class name: write up to 64 of a-z 0-9 _ . - and begin with a letter, digit or _")


def _require(entry: Entry, keys: Mapping[str, Entry], key: str, example: str) -> Entry:
    if key not in keys:
        raise entry.mistake(f"has no `{key}`: write for example `{key}: {example}`")
    return keys[key]


def _read_base_url(entry: Entry, provider: Provider) -> str:
    try:
        return without_version(parse_base_url(entry.text()), provider)
    except ValueError as error:
        raise entry.mistake(str(error)) from None


def _read_capabilities(entry: Entry, able: frozenset[Capability], provider: Provider) -> frozenset[Capability]:
    found: set[Capability] = set()
    for item in entry.items():
        capability = cast("Capability", item.choice(get_args(Capability)))
        if capability not in able:
            raise item.mistake(f"is nothing that provider {provider} does: write {', '.join(sorted(able))}")
        found.add(capability)
    if not found:
        raise entry.mistake("is empty: write what the class does, for example [images]")
    return frozenset(found)


def _read_limits(entry: Entry, capabilities: frozenset[Capability], findings: Findings) -> dict[Capability, int]:
    limits: dict[Capability, int] = {}
    for key, item in entry.known(get_args(Capability)).items():
        capability = cast("Capability", key)
        limits[capability] = item.whole(1, MAX_LIMIT)
        if capability not in capabilities:
            mistake = item.mistake("limits what the class does not do: add it to supported_capabilities").mistake
            findings.warn(mistake.where, mistake.message)
    return limits


def _read_health(entry: Entry, provider: Provider) -> HealthPaths:
    """One path alone is used for both questions."""
    paths = {key: _read_health_path(item) for key, item in entry.known(("liveness", "readiness")).items()}
    if not paths:
        return default_health(provider)
    liveness = paths.get("liveness") or paths["readiness"]
    return HealthPaths(liveness, paths.get("readiness", liveness), exact=True)


def _read_health_path(entry: Entry) -> str:
    path = entry.text()
    if not _HEALTH_PATH.fullmatch(path) or "#" in path or path.startswith("//"):
        raise entry.mistake("must be a path on the base_url: write for example /healthz")
    return path


def _read_payload_policy(entry: Entry) -> PayloadPolicy:
    keys = entry.known(("images_format", "images_allow_base64", "images_max_bytes"))
    default = PayloadPolicy()
    images_format = keys["images_format"].choice(("url", "b64_json")) if "images_format" in keys else "url"
    allow_base64 = keys["images_allow_base64"].flag() if "images_allow_base64" in keys else default.images_allow_base64
    if images_format == "b64_json" and not allow_base64:
        raise keys["images_format"].mistake("is b64_json, which images_allow_base64 forbids: write url")
    return PayloadPolicy(
        images_format=cast("Literal['url', 'b64_json']", images_format),
        images_allow_base64=allow_base64,
        images_max_bytes=keys["images_max_bytes"].whole(1, MAX_IMAGE_BYTES)
        if "images_max_bytes" in keys
        else default.images_max_bytes,
    )


def _read_models(entry: Entry) -> Models:
    """One of the two alone is both."""
    names = {key: item.text().strip() for key, item in entry.known(("strong", "fast")).items()}
    strong = names.get("strong") or names.get("fast", "")
    return Models(strong, names.get("fast") or strong)


def _read_responses(entry: Entry, provider: Provider) -> Responses:
    responses = cast("Responses", entry.choice(get_args(Responses)))
    if responses == "native" and provider != "openai":
        raise entry.mistake(f"is native, which provider {provider} has not: write translated")
    return responses


def _read_legacy(entry: Entry, classes: Mapping[str, Entry]) -> dict[str, str]:
    mapping: dict[str, str] = {}
    for name, item in entry.mapping().items():
        _check_name(name, item)
        mapping[name] = item.text()
        if mapping[name] not in classes:
            raise item.mistake(f"is no class of this file: write one of {', '.join(classes)}")
    return mapping
