"""`POST /v1/embeddings`."""

from quart import Response
from quart_trio import QuartTrio

from appliance.components import Components
from appliance.server.language import serve_language


def add_embeddings_route(app: QuartTrio, components: Components) -> None:
    """Contract 3."""

    @app.post("/v1/embeddings")
    async def embeddings() -> Response:
        return await serve_language(components, "embeddings")
