"""`/health`, `/readyz`, `/health/upstreams`: is it alive, can it work, what stands behind it."""

from typing import Any

from appliance.components import Components
from appliance.server.exchange import Answer, DirectRoutes, Request, json_answer
from appliance.server.healthviews import readiness, upstreams


def health_routes(components: Components) -> DirectRoutes:
    """Contract 2."""

    async def health(_request: Request) -> Answer:
        if components.lifecycle.draining:
            return json_answer({"ok": False, "draining": True}, 503)
        return json_answer({"ok": True})

    async def readyz(_request: Request) -> Answer:
        ready = components.health.all_required_ready() and not components.lifecycle.draining
        answer: dict[str, Any] = {"ok": ready, "ready": ready, "backends": readiness(components.health)}
        if components.lifecycle.draining:
            answer["draining"] = True
        if warnings := components.warnings():
            answer["warnings"] = warnings
        return json_answer(answer, 200 if ready else 503)

    async def health_upstreams(_request: Request) -> Answer:
        found = upstreams(components.health)
        return json_answer({"ok": all(entry["ok"] for entry in found.values()), "upstreams": found})

    return {
        "/health": {"GET": health},
        "/readyz": {"GET": readyz},
        "/health/upstreams": {"GET": health_upstreams},
    }
