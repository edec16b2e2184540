"""`/metrics`: Prometheus text."""

from quart import Response
from quart_trio import QuartTrio

from appliance.components import Components
from appliance.protocol.errors import NotFound


def add_metrics_route(app: QuartTrio, components: Components) -> None:
    """Contract 2; METRICS_ENABLED=false answers 404."""

    @app.get("/metrics")
    async def metrics() -> Response:
        if not components.settings.metrics_enabled:
            raise NotFound("Metrics are switched off (METRICS_ENABLED).")
        body, content_type = components.metrics.render()
        return Response(body, content_type=content_type)
