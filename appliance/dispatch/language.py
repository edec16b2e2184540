"""Language: from a checked request to a backend's answer or stream; routes and agents come through here alike."""

import math
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Any

from appliance.backends.base import ByteSource, LanguageBackend, LanguageCall
from appliance.backends.registry import LANGUAGE_BACKENDS
from appliance.config.classes import BackendClass, Capability
from appliance.config.settings import Settings
from appliance.dispatch.caps import apply_caps
from appliance.dispatch.dispatch import Caller, Dispatcher
from appliance.dispatch.routing import CAPABILITY, LanguageRoute, choose_language
from appliance.protocol.errors import CapabilityNotSupported
from appliance.protocol.frozen import frozen
from appliance.protocol.language import LanguageKind, LanguageRequest
from appliance.protocol.responses import to_chat
from appliance.upstream.deadlines import timeout_error


@frozen
class LanguageJob:
    """An admitted request: its slot is held until the caller's stack closes.

    `translated`: a responses request that is carried out as chat, whose answer has to be translated back.
    """

    call: LanguageCall
    route: LanguageRoute
    backend: LanguageBackend
    translated: bool


def admit_language(
    dispatcher: Dispatcher,
    caller: Caller,
    request: LanguageRequest,
    *,
    x_backend: str | None = None,
    request_type: str | None = None,
) -> LanguageJob:
    """Route, then capability, readiness, slot, alias caps, in the contract's order. Raises what each of them raises."""
    route = choose_language(request, x_backend=x_backend, request_type=request_type, router=dispatcher.router)
    served = _decide(dispatcher, request, route)
    dispatcher.admit(caller, served.backend_class, served.capability, probed=served.probed)
    return _job(dispatcher, caller, request, route, served)


def route_language(dispatcher: Dispatcher, request: LanguageRequest) -> LanguageRoute:
    """Where a request goes, for callers that route once and call often.

    Raises what routing, capability and readiness raise.
    """
    route = choose_language(request, x_backend=None, request_type=None, router=dispatcher.router)
    served = _decide(dispatcher, request, route)
    dispatcher.check_readiness(served.backend_class, probed=served.probed)
    return route


async def admit_routed(
    dispatcher: Dispatcher, caller: Caller, request: LanguageRequest, route: LanguageRoute, *, wait_s: float
) -> LanguageJob:
    """One more call of something that was routed before; it waits for a slot, `wait_s` at most."""
    served = _decide(dispatcher, request, route)
    await dispatcher.admit_within(wait_s, caller, served.backend_class, served.capability, probed=served.probed)
    return _job(dispatcher, caller, request, route, served)


@frozen
class _Served:
    """Who serves a route."""

    backend_class: BackendClass
    backend: LanguageBackend
    capability: Capability

    @property
    def probed(self) -> bool:
        return self.backend_class.provider != "mock_chat"


def _decide(dispatcher: Dispatcher, request: LanguageRequest, route: LanguageRoute) -> _Served:
    capability = CAPABILITY[request.kind]
    backend_class = dispatcher.decide(route.backend_class, capability)
    return _Served(backend_class, _find_backend(dispatcher, backend_class, capability), capability)


def _job(
    dispatcher: Dispatcher, caller: Caller, request: LanguageRequest, route: LanguageRoute, served: _Served
) -> LanguageJob:
    body = apply_caps(request, route.alias)
    kind: LanguageKind = request.kind
    translated = kind == "responses" and "responses" not in served.backend.kinds(served.backend_class)
    if translated:
        kind, body = "chat", to_chat(body)
    named = body if body.get("model") == route.model else {**body, "model": route.model}
    first_byte_s, total_s = deadlines(dispatcher.settings, stream=request.stream)
    call = LanguageCall(
        request_id=caller.request_id,
        backend_class=served.backend_class,
        kind=kind,
        model=route.model,
        body=named,
        raw=request.raw if named is request.body else None,
        first_byte_s=first_byte_s,
        idle_s=dispatcher.settings.backend_idle_timeout_sec,
        total_s=total_s,
    )
    return LanguageJob(call, route, served.backend, translated)


async def answer(dispatcher: Dispatcher, job: LanguageJob) -> bytes:
    """The backend's whole answer, as JSON of `job.call.kind`. Raises UpstreamTimeout, UpstreamFailed."""
    body: bytes | None = None
    with dispatcher.protect(job.call.backend_class, job.call.total_s):
        body = await job.backend.answer(job.call, dispatcher.upstream)
    if body is None:  # what protects a call that is to be finished has its end too
        raise timeout_error(job.call.backend_class.name, "total", job.call.total_s)
    return body


def open_stream(dispatcher: Dispatcher, job: LanguageJob) -> AbstractAsyncContextManager[ByteSource]:
    """The backend's stream, for the caller's stack to enter. A translated one always asks for its usage."""
    call = job.call
    if job.translated:
        call = replace(call, body=with_usage(call.body), raw=None)
    return job.backend.stream(call, dispatcher.upstream)


def deadlines(settings: Settings, *, stream: bool) -> tuple[float, float]:
    """First byte and total, in seconds. The first byte of a whole answer comes when the model is done; a stream may
    take as long as it likes while it is not silent."""
    if stream:
        return settings.backend_first_byte_timeout_sec, math.inf
    return settings.backend_answer_timeout_sec, settings.backend_answer_timeout_sec


def with_usage(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """The body, asking for a stream that ends with its usage."""
    return {**body, "stream": True, "stream_options": {"include_usage": True}}


def _find_backend(dispatcher: Dispatcher, backend_class: BackendClass, capability: Capability) -> LanguageBackend:
    backend = LANGUAGE_BACKENDS.get(backend_class.provider)
    if backend is not None:
        return backend
    able = [
        other.name
        for other in dispatcher.backends.classes.values()
        if capability in other.capabilities and other.provider in LANGUAGE_BACKENDS
    ]
    raise CapabilityNotSupported(
        backend_class=backend_class.name,
        capability=capability,
        supported=sorted(backend_class.capabilities - {capability}),
        able=able,
    )
