"""Routing: which class and which model a request goes to, and why. Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from appliance.config.alias import Alias
from appliance.config.classes import BackendClass, Backends, Capability
from appliance.config.settings import Settings
from appliance.dispatch.requesttype import is_coding
from appliance.protocol.errors import BackendNotFound
from appliance.protocol.frozen import frozen
from appliance.protocol.language import LanguageKind, LanguageRequest, text_chars

AUTO = "auto"

_PHOTOGRAPHIC = re.compile(
    r"\b(?:photos?|photograph(?:s|y|ic)?|photo-?real(?:istic|ism)?|realistic|hyper-?realistic|portrait|dslr|bokeh"
    r"|[0-9]{2,3}\s?mm|f/[0-9.]+|depth of field|film grain|long exposure|macro shot|close-?up shot|raw photo"
    r"|studio light(?:ing)?|natural light(?:ing)?|golden hour|cinematic|kodak|nikon|canon eos|leica|hasselblad|polaroid)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Route:
    """Where a request goes. `model` None: name no model to the backend."""

    backend_class: str
    reason: str


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """The model that is named to the backend, and by which rule."""

    model: str | None
    reason: str


def choose_image_class(x_backend: str | None, settings: Settings) -> Route:
    """Header `X-Backend` first, else IMAGES_BACKEND_CLASS; nothing in a body changes it."""
    if x_backend:
        return Route(x_backend.strip(), "override:x-backend")
    return Route(settings.images_backend_class, "config:images_backend_class")


def choose_image_model(requested: str | None, prompt: str, settings: Settings) -> ModelChoice:
    """Contract 4, "Model choice": request, configuration, then fast or slow by the prompt's words."""
    if requested and requested.lower() != AUTO:
        return ModelChoice(requested, "request:model")
    if settings.images_openai_model and settings.images_openai_model.lower() != AUTO:
        return ModelChoice(settings.images_openai_model, "config:model")
    if not settings.images_enable_request_type:
        return ModelChoice(None, "omit:model")
    if _PHOTOGRAPHIC.search(prompt):
        return ModelChoice(settings.images_openai_model_slow or None, "policy:images->slow")
    return ModelChoice(settings.images_openai_model_fast or None, "policy:images->fast")


CAPABILITY: Mapping[LanguageKind, Capability] = {
    "chat": "chat",
    "completions": "chat",
    "responses": "chat",
    "embeddings": "embeddings",
    "rerank": "rerank",
}

_STRONG = frozenset({"", AUTO, "default"})  # these name no model: the class's strong one


@frozen
class LanguageRoute:
    """Where a language request goes. `alias`: the one that led there; its caps apply."""

    backend_class: str
    model: str
    reason: str
    alias: Alias | None


@dataclass(frozen=True, slots=True)
class Router:
    """What the rules of contract 3 look at; made once by `build_router`. Aliases are by name, in lower case."""

    backends: Backends
    aliases: Mapping[str, Alias]
    default_backend: str
    policy: bool
    request_types: bool
    long_context_chars: int


def build_router(settings: Settings, backends: Backends, aliases: Mapping[str, Alias]) -> Router:
    return Router(
        backends=backends,
        aliases=aliases,
        default_backend=settings.default_backend,
        policy=settings.router_enable_policy,
        request_types=settings.router_enable_request_type,
        long_context_chars=settings.router_long_context_chars,
    )


def choose_language(
    request: LanguageRequest, *, x_backend: str | None, request_type: str | None, router: Router
) -> LanguageRoute:
    """Contract 3, "Routing": the first rule that matches. Of the body only `model` names a class, and with
    ROUTER_ENABLE_POLICY the text and the tools choose among aliases. Raises BackendNotFound."""
    if x_backend and x_backend.strip():
        return _override(x_backend.strip(), request, router)
    if alias := router.aliases.get(request.model.lower()):
        return _by_alias(alias, f"alias:{alias.name}")
    if pinned := _pinned(request.model, router):
        return pinned
    if request.model.lower() in _STRONG:
        return _unnamed(request, request_type, router)
    return LanguageRoute(_default_class(router).name, request.model, "direct:model", None)


def _override(name: str, request: LanguageRequest, router: Router) -> LanguageRoute:
    """The header decides, the model stays as it is; an alias is no model of that class and is not looked up."""
    backend_class = _named_class(name.lower(), router.backends) or _class_of_provider(name.lower(), request, router)
    if backend_class is None:
        raise BackendNotFound(name, list(router.backends.classes))
    prefix, _, rest = request.model.partition(":")
    owner = _named_class(prefix.lower(), router.backends)
    own = owner is not None and owner.name == backend_class.name
    return LanguageRoute(
        backend_class.name, _model_or_strong(rest if own else request.model, backend_class), "override:x-backend", None
    )


def _class_of_provider(provider: str, request: LanguageRequest, router: Router) -> BackendClass | None:
    """The first class of this provider that can serve the request; else one whose refusal says what it lacks."""
    capability = CAPABILITY[request.kind]
    found = [one for one in router.backends.classes.values() if one.provider == provider]
    able = [one for one in found if capability in one.capabilities]
    configured = [one for one in able if one.configured]
    return next(iter(configured or able or found), None)


def _pinned(model: str, router: Router) -> LanguageRoute | None:
    """`<class>:<model>`; a class's bare name, which the list of models holds, is its strong model."""
    prefix, _, rest = model.partition(":")
    backend_class = _named_class(prefix.lower(), router.backends)
    if backend_class is None:
        return None
    return LanguageRoute(backend_class.name, _model_or_strong(rest, backend_class), "pinned:model", None)


def _unnamed(request: LanguageRequest, request_type: str | None, router: Router) -> LanguageRoute:
    # Vectors of one model mean nothing to another: only what chats is spread over models.
    if router.policy and CAPABILITY[request.kind] == "chat":
        return _by_policy(request, request_type, router)
    if alias := router.aliases.get("default"):
        return _by_alias(alias, "alias:default")
    return _strong(router, "direct:model")


def _by_policy(request: LanguageRequest, request_type: str | None, router: Router) -> LanguageRoute:
    aliases = router.aliases
    if request.has_tools:
        able = [aliases[name] for name in ("default", "coder") if name in aliases and aliases[name].tools is not False]
        return _by_policy_alias("tools", able[0] if able else None, router)
    if text_chars(request) > _long_context_chars(router):
        return _by_policy_alias("long_context", aliases.get("long"), router)
    if router.request_types and is_coding(request, request_type):
        return _by_policy_alias("coding", aliases.get("coder"), router)
    return _by_policy_alias("fast", aliases.get("fast"), router)


def _by_policy_alias(rule: str, alias: Alias | None, router: Router) -> LanguageRoute:
    if alias is None:
        return _strong(router, f"policy:{rule}->strong")
    return _by_alias(alias, f"policy:{rule}->{alias.name}")


def _long_context_chars(router: Router) -> int:
    """Whichever is less. A window is in tokens; a text of as many characters is on its way to filling a smaller one."""
    long = router.aliases.get("long")
    window = long.context_window if long else None
    return min(window or router.long_context_chars, router.long_context_chars)


def _by_alias(alias: Alias, reason: str) -> LanguageRoute:
    return LanguageRoute(alias.backend_class, alias.model, reason, alias)


def _strong(router: Router, reason: str) -> LanguageRoute:
    backend_class = _default_class(router)
    return LanguageRoute(backend_class.name, backend_class.models.strong, reason, None)


def _model_or_strong(model: str, backend_class: BackendClass) -> str:
    name = model.strip()
    return backend_class.models.strong if name.lower() in _STRONG else name


def _default_class(router: Router) -> BackendClass:
    found = router.backends.classes.get(router.default_backend)
    if found is None:
        raise BackendNotFound(router.default_backend, list(router.backends.classes))
    return found


def _named_class(name: str, backends: Backends) -> BackendClass | None:
    return backends.classes.get(backends.legacy_mapping.get(name, name))
