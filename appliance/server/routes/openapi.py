"""`/openapi.json`: what this gateway takes and answers, for client generators and testers."""

from appliance import __version__
from appliance.protocol.openapi import openapi_document
from appliance.server.exchange import Answer, DirectRoutes, Request, json_answer


def openapi_routes() -> DirectRoutes:
    """The document is made when it is asked for: few ask, and a start should not wait for it."""

    async def openapi(_request: Request) -> Answer:
        return json_answer(openapi_document(__version__))

    return {"/openapi.json": {"GET": openapi}}
