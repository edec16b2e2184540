"""`POST /v1/completions`."""

from quart import Response
from quart_trio import QuartTrio

from appliance.components import Components
from appliance.server.language import serve_language


def add_completions_route(app: QuartTrio, components: Components) -> None:
    """Contract 3."""

    @app.post("/v1/completions")
    async def completions() -> Response:
        return await serve_language(components, "completions")
