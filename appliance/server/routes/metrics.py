"""`/metrics`: Prometheus text."""

from collections.abc import Callable, Iterable

import trio

from appliance.components import Components
from appliance.protocol.errors import NotFound
from appliance.server.exchange import Answer, DirectRoutes, Request
from appliance.telemetry.families import Metric


def metrics_routes(components: Components) -> DirectRoutes:
    """Contract 2; METRICS_ENABLED=false answers 404."""

    async def metrics(_request: Request) -> Answer:
        if not components.settings.metrics_enabled:
            raise NotFound("Metrics are switched off (METRICS_ENABLED).")
        # A thread imports it, so that running streams go on meanwhile; the page is written where things are counted.
        write_page = await trio.to_thread.run_sync(_import_writer)
        body, content_type = write_page(components.metrics.read())
        return Answer(body, content_type=content_type)

    return {"/metrics": {"GET": metrics}}


def _import_writer() -> Callable[[Iterable[Metric]], tuple[bytes, str]]:
    from appliance.telemetry.exposition import write_page  # noqa: PLC0415 -- 4 MB that a box without Prometheus saves

    return write_page
