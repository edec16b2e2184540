"""`/metrics`: Prometheus text."""

from appliance.components import Components
from appliance.protocol.errors import NotFound
from appliance.server.exchange import Answer, DirectRoutes, Request


def metrics_routes(components: Components) -> DirectRoutes:
    """Contract 2; METRICS_ENABLED=false answers 404."""

    async def metrics(_request: Request) -> Answer:
        if not components.settings.metrics_enabled:
            raise NotFound("Metrics are switched off (METRICS_ENABLED).")
        body, content_type = components.metrics.render()
        return Answer(body, content_type=content_type)

    return {"/metrics": {"GET": metrics}}
