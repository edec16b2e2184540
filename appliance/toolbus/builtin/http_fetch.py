"""http_fetch: asks the operator's hosts."""

from appliance.toolbus.base import Tool, ToolEnvironment
from appliance.toolbus.fetching import PARAMETERS, Fetcher


def make(environment: ToolEnvironment) -> Tool:
    return Tool(
        name="http_fetch",
        version="1",
        description=(
            "Fetch a URL from one of the allowed hosts. Answers the HTTP status, the content type and the body, as text "
            "or else in base64, cut where it is too long. Redirects are not followed: their location is in the answer."
        ),
        parameters=PARAMETERS,
        side_effects=False,
        run=Fetcher(environment, loopback_only=False).fetch,
    )
