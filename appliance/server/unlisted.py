"""Unlisted: the paths that the table of routes does not have: ids with slashes in them, and what is served nowhere."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from appliance.protocol.errors import NotFound
from appliance.server.direct import Found, Receive, Send, serve_direct
from appliance.server.exchange import Handler
from appliance.server.visit import visit_of

AsgiApp = Callable[[Any, Receive, Send], Awaitable[None]]
DeepRoutes = Mapping[str, Mapping[str, Handler]]
"""Template -> method -> handler. `/v1/models/<path:model_id>`: the variable is the rest of the path, slashes and all."""


def serve_unlisted(routes: DeepRoutes) -> AsgiApp:
    """Make the application that is asked where the table has nothing. It raises NotFound for what is not here either."""
    below = {template.partition("<")[0]: template for template in routes}

    async def serve(scope: Any, receive: Receive, send: Send) -> None:
        path = scope["path"]
        for prefix, template in below.items():
            rest = path.removeprefix(prefix)
            if rest != path and rest and not rest.startswith("/"):
                await serve_direct(visit_of(scope), Found(template, routes[template], rest), scope, receive, send)
                return
        raise NotFound("Nothing is served under this path: see the endpoint table of the README.")

    return serve
