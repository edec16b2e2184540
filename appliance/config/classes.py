"""Backend classes: what the operator says stands behind this gateway."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from pydantic import SecretStr

from appliance.config.comfyui_workflow import Workflows
from appliance.config.mock_script import MockScript

Capability = Literal["chat", "embeddings", "rerank", "images", "tts", "stt"]
Provider = Literal["a1111", "comfyui", "invokeai", "openai_images", "openai", "ollama", "mock_chat"]
OnDisconnect = Literal["cancel", "finish"]
Responses = Literal["translated", "native"]

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
class Models:
    """What a class is named where a request names no model. Empty: it has no models, or none by these words."""

    strong: str = ""
    fast: str = ""


@dataclass(frozen=True, slots=True)
class Login:
    """Who we are to a backend that asks. `by_basic`: in HTTP Basic with every request; else in a log-in of its own."""

    user: str
    password: SecretStr
    by_basic: bool = True


@dataclass(frozen=True, slots=True)
class BackendClass:
    """One class of backends.

    `base_url`: without a slash at its end and, for OpenAI-style providers, without the `/v1` that paths begin with.
    Empty: known by name, not configured. `responses`: whether /v1/responses is the backend's own, or made of chat.
    `login`: shown to it, where it asks or with every request. `script`: what a class of provider mock_chat says; None: the
    builtin script. `workflows`: what a class of provider comfyui draws with instead of the shipped graphs.
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
    models: Models = field(default_factory=Models)
    responses: Responses = "translated"
    script: MockScript | None = None
    login: Login | None = None
    workflows: Workflows = field(default_factory=Workflows)

    @property
    def configured(self) -> bool:
        """Whether it can be asked at all; the scripted model needs no address."""
        return bool(self.base_url) or self.provider == "mock_chat"

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
    "mock_chat": "",  # never asked
}
_IMAGES: frozenset[Capability] = frozenset({"images"})
_CAPABILITIES: Mapping[Provider, frozenset[Capability]] = {
    "a1111": _IMAGES,
    "comfyui": _IMAGES,
    "invokeai": _IMAGES,
    "openai_images": _IMAGES,
    "openai": frozenset({"chat", "embeddings", "rerank", "tts", "stt"}),
    "ollama": frozenset({"chat", "embeddings"}),
    "mock_chat": frozenset({"chat", "embeddings", "rerank"}),
}


@dataclass(frozen=True, slots=True)
class Backends:
    """All classes by name, and the old prefixes that still mean one of them."""

    classes: Mapping[str, BackendClass]
    legacy_mapping: Mapping[str, str]
