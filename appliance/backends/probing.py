"""Probing: what stands at an address, by its own answers: its kind, version and models, and what its cancel can do."""

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic_core import from_json

from appliance.config.classes import BackendClass, Login, Provider
from appliance.protocol.errors import UpstreamFailed, UpstreamTimeout
from appliance.upstream.client import UpstreamClient
from appliance.upstream.exchange import UpstreamCall, login_headers
from appliance.upstream.failures import failure_from_answer

MAX_MODELS = 500  # shown; a server may have any number
MAX_TEXT_CHARS = 120

SD_CPP_MODEL = "sd-cpp-local"  # the one model that stable-diffusion.cpp's server lists

_OWN_JOB = "its own job, queued or running"
_CLOSING = "by closing the connection"
_NONE = "none: it draws to the end, and its slot waits for that"
_INVOKEAI_MODELS = "/api/v2/models/?model_type=main"
_WANTS_LOGIN = "a login: set IMAGES_INVOKEAI_USER and IMAGES_INVOKEAI_PASSWORD to an account of its own"
_WANTS_OTHER_LOGIN = "another login: it refuses IMAGES_INVOKEAI_USER with IMAGES_INVOKEAI_PASSWORD"
_WAITING = "its own job while it waits in the queue; one that is drawn keeps its slot to the end"


@dataclass(frozen=True, slots=True)
class Finding:
    """What answered. `cancel`: what a client that leaves can have stopped, in plain words. `version` None: not told.

    `wants`: what keeps it from drawing for us, and what to set; None where nothing does.
    """

    provider: Provider
    kind: str
    version: str | None
    models: tuple[str, ...]
    cancel: str
    wants: str | None = None


class Asker:
    """Asks one address small questions; each within `timeout_s`."""

    def __init__(self, one: BackendClass, upstream: UpstreamClient, timeout_s: float) -> None:
        self._one = one
        self._upstream = upstream
        self._timeout_s = timeout_s
        self._bearer: str | None = None

    @property
    def login(self) -> Login | None:
        """The configured one; None for an address that nobody has configured one for."""
        return self._one.login

    def bear(self, token: str) -> None:
        """Show this token from now on, in place of the login."""
        self._bearer = token

    async def get(self, path: str) -> Any:
        """The JSON under this path. Raises UpstreamFailed, UpstreamTimeout."""
        return await self._ask("GET", path, b"")

    async def post(self, path: str, body: bytes) -> Any:
        """The JSON that answers this. Raises UpstreamFailed, UpstreamTimeout."""
        return await self._ask("POST", path, body)

    async def maybe(self, path: str, body: bytes | None = None) -> Any:
        """As `get` or `post`; None for whatever goes wrong."""
        try:
            return await (self.get(path) if body is None else self.post(path, body))
        except (UpstreamFailed, UpstreamTimeout):
            return None

    def unlike(self, what: str) -> UpstreamFailed:
        """The error for an answer of something else."""
        return UpstreamFailed(f"{self._one.name} answers, but not like {what}.", upstream=self._one.name)

    def _headers(self, body: bytes) -> dict[str, str]:
        kind = {"Content-Type": "application/json"} if body else {}
        login = {"Authorization": f"Bearer {self._bearer}"} if self._bearer else login_headers(self._one)
        return {**kind, **login}

    async def _ask(self, method: str, path: str, body: bytes) -> Any:
        name = self._one.name
        answer = await self._upstream.exchange(
            UpstreamCall(
                backend_class=name,
                method=method,
                url=self._one.base_url.rstrip("/") + path,
                headers=self._headers(body),
                body=body,
                first_byte_s=self._timeout_s,
                idle_s=self._timeout_s,
                total_s=self._timeout_s,
            )
        )
        if answer.status != 200:
            raise failure_from_answer(answer, upstream=name)
        try:
            return from_json(answer.body)
        except ValueError:
            raise UpstreamFailed(f"{name} answered {path} with something that is not JSON.", upstream=name) from None


Probe = Callable[[Asker], Awaitable[Finding]]


async def probe(one: BackendClass, upstream: UpstreamClient, timeout_s: float) -> Finding:
    """Ask a configured class what it is. Raises UpstreamFailed for one that cannot be reached or is something else,
    UpstreamTimeout."""
    return await PROBES[one.provider](Asker(one, upstream, timeout_s))


async def identify(one: BackendClass, upstream: UpstreamClient, timeout_s: float) -> Finding | None:
    """Find out which provider answers at the address of `one`, whatever it says it is; None for none that is known.

    Raises UpstreamFailed where nothing answers at all, UpstreamTimeout.
    """
    asker = Asker(one, upstream, timeout_s)
    for ask in (_probe_sd_cpp, _probe_comfyui, _probe_invokeai, _probe_ollama, _probe_a1111, _probe_openai):
        try:
            return await ask(asker)
        except UpstreamFailed as refused:
            if "cannot be reached" in refused.message:
                raise
    return None


async def _probe_a1111(ask: Asker) -> Finding:
    models = _names(await ask.get("/sdapi/v1/sd-models"), "title")
    if models is None:
        raise ask.unlike("AUTOMATIC1111")
    if SD_CPP_MODEL in (_openai_models(await ask.maybe("/v1/models")) or ()):
        return Finding("a1111", "stable-diffusion.cpp", None, models, _NONE)
    options = await ask.maybe("/sdapi/v1/options")
    is_forge = isinstance(options, dict) and any(name.startswith("forge_") for name in options)
    looked = await ask.maybe("/internal/progress", b'{"id_task":"task(probe)","live_preview":false}')
    tracked = isinstance(looked, dict) and "active" in looked
    cancel = "its own job, once it runs" if tracked else f"{_NONE} (it was started with --nowebui)"
    return Finding("a1111", "Forge" if is_forge else "AUTOMATIC1111", None, models, cancel)


async def _probe_comfyui(ask: Asker) -> Finding:
    system = _field(await ask.get("/system_stats"), "system")
    if not isinstance(system, dict):
        raise ask.unlike("ComfyUI")
    models = await ask.maybe("/models/checkpoints")
    return Finding("comfyui", "ComfyUI", _text(system.get("comfyui_version")), _strings(models), _OWN_JOB)


async def _probe_invokeai(ask: Asker) -> Finding:
    version = _text(_field(await ask.get("/api/v1/app/version"), "version"))
    if version is None:
        raise ask.unlike("InvokeAI")
    models, wants = await _models_of_invokeai(ask)
    return Finding("invokeai", "InvokeAI", version, models, _OWN_JOB, wants)


async def _models_of_invokeai(ask: Asker) -> tuple[tuple[str, ...], str | None]:
    """Its models, and what it wants before it shows them: in multiuser mode everything but the version wants a login."""
    try:
        said = await ask.get(_INVOKEAI_MODELS)
    except UpstreamFailed as refused:
        if refused.extra.get("status") != 401:
            return (), None
        token = await _log_in(ask)
        if token is None:
            return (), _WANTS_LOGIN if ask.login is None else _WANTS_OTHER_LOGIN
        ask.bear(token)
        said = await ask.maybe(_INVOKEAI_MODELS)
    return _names(_field(said, "models"), "name") or (), None


async def _log_in(ask: Asker) -> str | None:
    """A token for the configured account; None where there is none, or it is refused."""
    if ask.login is None:
        return None
    credentials = {"email": ask.login.user, "password": ask.login.password.get_secret_value()}
    token = _field(await ask.maybe("/api/v1/auth/login", json.dumps(credentials).encode()), "token")
    return token if isinstance(token, str) and token.isascii() and token.isprintable() and " " not in token else None


async def _probe_sd_cpp(ask: Asker) -> Finding:
    models = _openai_models(await ask.get("/v1/models"))
    if models is None or SD_CPP_MODEL not in models:
        raise ask.unlike("stable-diffusion.cpp")
    return await _sd_cpp(ask, models)


async def _sd_cpp(ask: Asker, models: tuple[str, ...]) -> Finding:
    """Older ones have no API of their own, and cancel nothing."""
    features = _field(await ask.maybe("/sdcpp/v1/capabilities"), "features")
    cancel = _WAITING if _field(features, "cancel_queued") is True else _NONE
    return Finding("openai_images", "stable-diffusion.cpp", None, models, cancel)


async def _probe_openai_images(ask: Asker) -> Finding:
    models = _openai_models(await ask.get("/v1/models"))
    if models is None:
        raise ask.unlike("an OpenAI-style server")
    if SD_CPP_MODEL in models:
        return await _sd_cpp(ask, models)
    return Finding("openai_images", "OpenAI-style", None, models, _CLOSING)


async def _probe_openai(ask: Asker) -> Finding:
    models = _openai_models(await ask.get("/v1/models"))
    if models is None:
        raise ask.unlike("an OpenAI-style server")
    return Finding("openai", "OpenAI-style", None, models, _CLOSING)


async def _probe_ollama(ask: Asker) -> Finding:
    models = _names(_field(await ask.get("/api/tags"), "models"), "name")
    if models is None:
        raise ask.unlike("Ollama")
    version = _text(_field(await ask.maybe("/api/version"), "version"))
    return Finding("ollama", "Ollama", version, models, _CLOSING)


async def _probe_mock_chat(_ask: Asker) -> Finding:
    return Finding("mock_chat", "script", None, (), "there is nothing to cancel")


PROBES: Mapping[Provider, Probe] = {
    "a1111": _probe_a1111,
    "comfyui": _probe_comfyui,
    "invokeai": _probe_invokeai,
    "openai_images": _probe_openai_images,
    "openai": _probe_openai,
    "ollama": _probe_ollama,
    "mock_chat": _probe_mock_chat,
}


def _openai_models(said: object) -> tuple[str, ...] | None:
    return _names(_field(said, "data"), "id")


def _field(said: object, name: str) -> object:
    return said.get(name) if isinstance(said, dict) else None


def _names(items: object, field: str) -> tuple[str, ...] | None:
    """This field of every item; None where there is no list of objects."""
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        return None
    return _strings([item.get(field) for item in items])


def _strings(items: object) -> tuple[str, ...]:
    found = [_text(item) for item in items[:MAX_MODELS]] if isinstance(items, list) else []
    return tuple(name for name in found if name is not None)


def _text(value: object) -> str | None:
    """What a terminal may be shown of it."""
    if not isinstance(value, str):
        return None
    return "".join(char for char in value if char.isprintable())[:MAX_TEXT_CHARS] or None
