"""`/v1/gateway/status`: every slot with its holders, every class with its health."""

import trio

from appliance import __version__
from appliance.components import Components
from appliance.server.exchange import Answer, DirectRoutes, Request, json_answer
from appliance.server.healthviews import readiness


def status_routes(components: Components) -> DirectRoutes:
    """Contract 2."""

    async def status(_request: Request) -> Answer:
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
        return json_answer(
            {
                "admission_control": slots,
                "backend_health": readiness(components.health),
                "version": __version__,
                "uptime_s": round(trio.current_time() - components.started_at, 3),
            }
        )

    return {"/v1/gateway/status": {"GET": status}}
