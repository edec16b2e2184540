"""Backend classes: what the operator says stands behind this gateway."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Capability = Literal["chat", "embeddings", "rerank", "images", "tts", "stt"]
Provider = Literal["a1111", "comfyui", "invokeai", "openai_images", "openai", "ollama"]
OnDisconnect = Literal["cancel", "finish"]

DEFAULT_LIMIT = 1  # a capability without a limit of its own


@dataclass(frozen=True, slots=True)
class HealthPaths:
    """Paths asked on the class's base_url. `exact`: the operator chose them, so only 200 will do."""

    liveness: str
    readiness: str
    exact: bool


@dataclass(frozen=True, slots=True)
class PayloadPolicy:
    """What a class lets in and out. `images_format` is served where a request names no format."""

    images_format: Literal["url", "b64_json"] = "url"
    images_allow_base64: bool = True
    images_max_bytes: int = 50_000_000


@dataclass(frozen=True, slots=True)
class BackendClass:
    """One class of backends.

    `base_url`: without a slash at its end and, for OpenAI-style providers, without the `/v1` that paths begin with.
    Empty: known by name, not configured.
    """

    name: str
    base_url: str
    provider: Provider
    capabilities: frozenset[Capability]
    limits: Mapping[Capability, int]
    health: HealthPaths
    description: str = ""
    required: bool = True
    payload_policy: PayloadPolicy = field(default_factory=PayloadPolicy)
    on_disconnect: OnDisconnect = "cancel"

    def limit(self, capability: Capability) -> int:
        return self.limits.get(capability, DEFAULT_LIMIT)


def default_health(provider: Provider) -> HealthPaths:
    """What is asked where the operator names no path: any answer below 500 will do."""
    path = _HEALTH_PATHS[provider]
    return HealthPaths(path, path, exact=False)


def capabilities_of(provider: Provider) -> frozenset[Capability]:
    """What a class of this provider can be said to do at all."""
    return _CAPABILITIES[provider]


def without_version(base_url: str, provider: Provider) -> str:
    """Contract 5: the base_url of an OpenAI-style provider may end in /v1 or not."""
    return base_url.removesuffix("/v1").rstrip("/") if provider in {"openai", "openai_images"} else base_url


_HEALTH_PATHS: Mapping[Provider, str] = {
    "a1111": "/sdapi/v1/samplers",
    "comfyui": "/system_stats",
    "invokeai": "/api/v1/app/version",
    "openai_images": "/v1/models",
    "openai": "/v1/models",
    "ollama": "/api/version",
}
_IMAGES: frozenset[Capability] = frozenset({"images"})
_CAPABILITIES: Mapping[Provider, frozenset[Capability]] = {
    "a1111": _IMAGES,
    "comfyui": _IMAGES,
    "invokeai": _IMAGES,
    "openai_images": _IMAGES,
    "openai": frozenset({"chat", "embeddings", "rerank", "tts", "stt"}),
    "ollama": frozenset({"chat", "embeddings"}),
}


@dataclass(frozen=True, slots=True)
class Backends:
    """All classes by name, and the old prefixes that still mean one of them."""

    classes: Mapping[str, BackendClass]
    legacy_mapping: Mapping[str, str]
