"""`/health`, `/readyz`, `/health/upstreams`: is it alive, can it work, what stands behind it."""

from typing import Any

from quart import Response
from quart_trio import QuartTrio

from appliance.components import Components
from appliance.server.app import json_response
from appliance.server.healthviews import readiness, upstreams


def add_health_routes(app: QuartTrio, components: Components) -> None:
    """Contract 2. Quart answers HEAD wherever it answers GET."""

    @app.get("/health")
    async def health() -> Response:
        if components.lifecycle.draining:
            return json_response({"ok": False, "draining": True}, 503)
        return json_response({"ok": True})

    @app.get("/readyz")
    async def readyz() -> Response:
        ready = components.health.all_required_ready() and not components.lifecycle.draining
        answer: dict[str, Any] = {"ok": ready, "ready": ready, "backends": readiness(components.health)}
        if components.lifecycle.draining:
            answer["draining"] = True
        if warnings := components.warnings():
            answer["warnings"] = warnings
        return json_response(answer, 200 if ready else 503)

    @app.get("/health/upstreams")
    async def health_upstreams() -> Response:
        found = upstreams(components.health)
        return json_response({"ok": all(entry["ok"] for entry in found.values()), "upstreams": found})
