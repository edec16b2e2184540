"""Chat, completions, responses, embeddings and rerank: five paths, one way through."""

from appliance.components import Components
from appliance.server.exchange import DirectRoutes
from appliance.server.language import language_handler


def language_routes(components: Components) -> DirectRoutes:
    """Contract 3."""
    return {
        "/v1/chat/completions": {"POST": language_handler(components, "chat")},
        "/v1/completions": {"POST": language_handler(components, "completions")},
        "/v1/responses": {"POST": language_handler(components, "responses")},
        "/v1/embeddings": {"POST": language_handler(components, "embeddings")},
        "/v1/rerank": {"POST": language_handler(components, "rerank")},
    }
