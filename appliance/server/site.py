"""Site: the two listeners' applications, put together from components: routes, access, the record of each visit."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import trio

from appliance.components import Components
from appliance.config.loading import Configuration
from appliance.config.tokens import Token
from appliance.server.access import Access, BodyLimit, Head
from appliance.server.exchange import DirectRoutes
from appliance.server.gateway import Gateway
from appliance.server.routes import OBSERVABILITY_PATHS, OPEN_PATHS
from appliance.server.routes.agents import agent_routes
from appliance.server.routes.health import health_routes
from appliance.server.routes.images import EDITS_PATH, image_routes, is_signed_picture, picture_routes
from appliance.server.routes.language import language_routes
from appliance.server.routes.metrics import metrics_routes
from appliance.server.routes.models import models_routes
from appliance.server.routes.openapi import openapi_routes
from appliance.server.routes.status import status_routes
from appliance.server.routes.tools import tool_routes
from appliance.server.throttle import GuessThrottle
from appliance.server.visit import Visit

CLIENT_CLOSED = 499  # nginx's word for it: no status was sent, the client had left


@dataclass(frozen=True, slots=True)
class Site:
    """The applications, as ASGI callables."""

    api: Gateway
    observability: Gateway
    throttle: GuessThrottle

    def reload(self, configuration: Configuration, tokens: Sequence[Token]) -> None:
        """From the next request on, these tokens, policies and address lists count."""
        self.api.access = self.observability.access = Access(configuration, tokens, self.throttle)

    def stop_visits(self) -> None:
        self.api.stop_visits()
        self.observability.stop_visits()


def build_site(components: Components, tokens: Sequence[Token]) -> Site:
    """Build both applications."""
    throttle = GuessThrottle(trio.current_time)
    access = Access(components.configuration, tokens, throttle)
    observed = {**health_routes(components), **metrics_routes(components)}
    routes = {
        **observed,
        **openapi_routes(),
        **status_routes(components),
        **models_routes(components),
        **language_routes(components),
        **image_routes(components),
        **picture_routes(components),
        **tool_routes(components),
        **agent_routes(components),
    }
    limits = {EDITS_PATH: BodyLimit(components.settings.images_max_upload_bytes, "IMAGES_MAX_UPLOAD_BYTES")}

    def wrap(routes: DirectRoutes, is_open: Callable[[Head, bytes], bool]) -> Gateway:
        return Gateway(
            routes,
            access=access,
            is_open=is_open,
            grace=components.grace,
            cleanup_s=components.settings.backend_cancel_timeout_sec,
            body_limits=limits,
            on_finished=lambda visit: record(components, visit),
            log=components.log,
            new_id=components.new_id,
        )

    return Site(
        api=wrap(routes, lambda head, query: head.path in OPEN_PATHS or is_signed_picture(head, query)),
        observability=wrap(observed, lambda head, _query: head.path in OBSERVABILITY_PATHS),
        throttle=throttle,
    )


def record(components: Components, visit: Visit) -> None:
    """Everything a visit was is known: count it, and write its journal line."""
    now = trio.current_time()
    metrics = components.metrics
    if visit.status is None and visit.disconnected_at is not None:
        visit.status = CLIENT_CLOSED
    metrics.note_request(visit.route, visit.status or 0, now - visit.started_at)
    if visit.error_code is not None:
        metrics.note_refusal(visit.error_code)
    if visit.first_byte_at is not None:
        metrics.note_first_byte(visit.route, visit.backend_class or "none", visit.first_byte_at - visit.started_at)
    if visit.disconnected_at is not None and visit.backend_class is not None:
        metrics.note_release(now - visit.disconnected_at)
    if visit.bytes_in:
        metrics.note_relayed("in", visit.bytes_in)
    metrics.note_relayed("out", visit.bytes_out)
    if components.journal is not None:
        components.journal.record_nowait(visit.journal_line(now, time.time()))
