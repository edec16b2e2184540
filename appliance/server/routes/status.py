"""`/v1/gateway/status`: every slot with its holders, every class with its health."""

import trio
from quart import Response
from quart_trio import QuartTrio

from appliance import __version__
from appliance.components import Components
from appliance.server.app import json_response
from appliance.server.healthviews import readiness


def add_status_route(app: QuartTrio, components: Components) -> None:
    """Contract 2."""

    @app.get("/v1/gateway/status")
    async def status() -> Response:
        slots = {
            f"{slot.backend_class}.{slot.capability}": {
                "limit": slot.limit,
                "available": slot.available,
                "inflight": slot.inflight,
                "holders": [
                    {"request_id": holder.request_id, "since_s": round(holder.since_s, 3)} for holder in slot.holders
                ],
            }
            for slot in components.leases.statistics()
        }
        return json_response(
            {
                "admission_control": slots,
                "backend_health": readiness(components.health),
                "version": __version__,
                "uptime_s": round(trio.current_time() - components.started_at, 3),
            }
        )
