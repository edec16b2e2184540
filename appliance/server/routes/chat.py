"""`POST /v1/chat/completions`."""

from quart import Response
from quart_trio import QuartTrio

from appliance.components import Components
from appliance.server.language import serve_language


def add_chat_route(app: QuartTrio, components: Components) -> None:
    """Contract 3."""

    @app.post("/v1/chat/completions")
    async def chat() -> Response:
        return await serve_language(components, "chat")
