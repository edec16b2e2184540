"""Backends: the classes as everything else sees them, the file's or the embedded ones, with IMAGES_* applied."""

from collections.abc import Mapping
from dataclasses import replace
from urllib.parse import urlsplit

from appliance.config.backends_file import read_backends_file
from appliance.config.checks import check_no_loop
from appliance.config.classes import (
    BackendClass,
    Backends,
    Capability,
    Provider,
    default_health,
    without_version,
)
from appliance.config.comfyui_workflow import WorkflowError, load_workflows
from appliance.config.errors import Findings
from appliance.config.logins import add_logins
from appliance.config.models import add_mock_class, name_models
from appliance.config.reading import Given
from appliance.config.settings import ImagesBackend, Settings
from appliance.config.values import is_loopback

_PROVIDERS: Mapping[ImagesBackend, Provider] = {
    "http_a1111": "a1111",
    "http_comfyui": "comfyui",
    "http_openai_images": "openai_images",
    "http_invokeai": "invokeai",
}
_IMAGES_DEFAULT_PORT = 7860
_IMAGES_FIELDS = ("images_backend", "images_backend_class", "images_http_base_url")


def resolve_backends(given: Given, variables: Mapping[str, str], findings: Findings) -> Backends:
    file = given.settings.backends_config_path
    if file is None:
        backends = embedded_backends(given.settings)
    else:
        mistakes = len(findings.mistakes)
        backends = read_backends_file(file, variables, findings)
        if len(findings.mistakes) > mistakes:
            return backends
        _warn_of_unused_urls(given, findings)
    classes = dict(backends.classes)
    _apply_images(given, classes, findings)
    _add_workflows(given, classes, findings)
    add_mock_class(given, classes, findings)
    add_logins(given, classes, findings)
    name_models(given.settings, classes, backends.legacy_mapping)
    for backend_class in classes.values():
        check_no_loop(given, backend_class, findings)
    _warn_of_shared_urls(classes, findings)
    return Backends(classes, backends.legacy_mapping)


def embedded_backends(settings: Settings) -> Backends:
    """Contract 5, "No file". `gpu_heavy` gets its address and provider from IMAGES_*."""
    classes = (
        _embedded("ollama", settings.ollama_base_url, "ollama", {"chat": 4, "embeddings": 4}),
        _embedded("local_mlx", settings.mlx_base_url, "openai", {"chat": 2, "embeddings": 2}),
        _embedded("gpu_heavy", "", "a1111", {"images": 2}),
    )
    return Backends({backend_class.name: backend_class for backend_class in classes}, {"mlx": "local_mlx"})


def _embedded(name: str, base_url: str, provider: Provider, limits: Mapping[Capability, int]) -> BackendClass:
    return BackendClass(
        name=name,
        base_url=without_version(base_url, provider),
        provider=provider,
        capabilities=frozenset(limits),
        limits=limits,
        health=default_health(provider),
        required=False,
    )


def _apply_images(given: Given, classes: dict[str, BackendClass], findings: Findings) -> None:
    """IMAGES_BACKEND decides the provider of IMAGES_BACKEND_CLASS, and IMAGES_HTTP_BASE_URL may decide its address."""
    current = classes.get(given.settings.images_backend_class)
    if current is None or "images" not in current.capabilities:
        _no_images_class(given, classes, findings)
        return
    provider = _PROVIDERS.get(given.settings.images_backend)
    if provider is None:
        _warn_of_mock(given, current, findings)
        return
    if given.settings.backends_config_path is not None and provider != current.provider:
        findings.warn(
            given.where("images_backend"),
            f"makes class {current.name} {provider}, not {current.provider}: write `provider: {provider}` in the file",
        )
    classes[current.name] = replace(
        current,
        provider=provider,
        base_url=without_version(_images_base_url(given, current, findings), provider),
        health=current.health if current.health.exact else default_health(provider),
    )


def _add_workflows(given: Given, classes: dict[str, BackendClass], findings: Findings) -> None:
    """IMAGES_COMFYUI_WORKFLOW is for every class of that provider."""
    path = given.settings.images_comfyui_workflow
    if path is None:
        return
    where = given.where("images_comfyui_workflow")
    drawing = [one for one in classes.values() if one.provider == "comfyui"]
    if not drawing:
        findings.warn(where, "is not used, because no class is of provider comfyui: set IMAGES_BACKEND=http_comfyui")
    try:
        workflows = load_workflows(path)
    except WorkflowError as error:
        findings.refuse(where, f"{error} (docs/comfyui.md has the format)")
        return
    for one in drawing:
        classes[one.name] = replace(one, workflows=workflows)


def _no_images_class(given: Given, classes: Mapping[str, BackendClass], findings: Findings) -> None:
    """Nobody who has not asked for pictures is kept from starting by their absence."""
    able = [name for name, backend_class in classes.items() if "images" in backend_class.capabilities]
    advice = f"write {' or '.join(able)}" if able else "add a class with supported_capabilities: [images]"
    message = f"there is no class {given.settings.images_backend_class!r} that does images: {advice}"
    if any(given.is_set(field) for field in _IMAGES_FIELDS):
        findings.refuse(given.where("images_backend_class"), message)
    else:
        findings.warn(given.where("images_backend_class"), message)


def _warn_of_mock(given: Given, current: BackendClass, findings: Findings) -> None:
    if given.is_set("images_http_base_url"):
        findings.warn(
            given.where("images_http_base_url"),
            "is not used, because IMAGES_BACKEND is mock: set IMAGES_BACKEND=http_a1111, http_comfyui or http_openai_images",
        )
    elif current.base_url and current.provider in _PROVIDERS.values():
        findings.warn(
            given.where("images_backend"),
            f"is mock, so class {current.name} draws nothing real: set IMAGES_BACKEND=http_{current.provider}",
        )


def _images_base_url(given: Given, current: BackendClass, findings: Findings) -> str:
    """The class wins over a loopback default of IMAGES_HTTP_BASE_URL, an address on purpose wins over the class."""
    url = given.settings.images_http_base_url
    if not current.base_url:
        return url
    parts = urlsplit(url)
    if is_loopback(parts.hostname or "") and parts.port == _IMAGES_DEFAULT_PORT:
        return current.base_url
    if url != current.base_url:
        findings.warn(
            given.where("images_http_base_url"),
            f"counts, not the base_url of class {current.name}: write it in one place",
        )
    return url


def _warn_of_unused_urls(given: Given, findings: Findings) -> None:
    for field in ("ollama_base_url", "mlx_base_url"):
        if given.is_set(field):
            findings.warn(given.where(field), "is not used, because there is a backends file: write it there")


def _warn_of_shared_urls(classes: Mapping[str, BackendClass], findings: Findings) -> None:
    seen: dict[str, str] = {}
    for name, backend_class in classes.items():
        if not backend_class.base_url:
            continue
        other = seen.setdefault(backend_class.base_url, name)
        if other != name:
            findings.warn(
                f"class {name}", f"has the base_url of class {other}: each has slots of its own, so limits add up"
            )
