"""`POST /v1/rerank`."""

from quart import Response
from quart_trio import QuartTrio

from appliance.components import Components
from appliance.server.language import serve_language


def add_rerank_route(app: QuartTrio, components: Components) -> None:
    """Contract 3."""

    @app.post("/v1/rerank")
    async def rerank() -> Response:
        return await serve_language(components, "rerank")
