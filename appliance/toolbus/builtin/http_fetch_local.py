"""http_fetch_local: asks services on this machine. The operator's list of hosts counts for it too."""

from appliance.toolbus.base import Tool, ToolEnvironment
from appliance.toolbus.fetching import PARAMETERS, Fetcher


def make(environment: ToolEnvironment) -> Tool:
    return Tool(
        name="http_fetch_local",
        version="1",
        description=(
            "Fetch a URL from a service on this machine: http://127.0.0.1:PORT/ or http://localhost:PORT/. Answers the "
            "HTTP status, the content type and the body, as text or else in base64, cut where it is too long."
        ),
        parameters=PARAMETERS,
        side_effects=False,
        run=Fetcher(environment, loopback_only=True).fetch,
    )
