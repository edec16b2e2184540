"""`POST /v1/responses`."""

from quart import Response
from quart_trio import QuartTrio

from appliance.components import Components
from appliance.server.language import serve_language


def add_responses_route(app: QuartTrio, components: Components) -> None:
    """Contract 3."""

    @app.post("/v1/responses")
    async def responses() -> Response:
        return await serve_language(components, "responses")
