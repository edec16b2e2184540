"""`/v1/tools`: what a token may run, running it, and showing a run again."""

import json
from typing import Any

from appliance.components import Components
from appliance.protocol.errors import NotFound
from appliance.protocol.ids import is_id
from appliance.protocol.tools import Invocation, ToolCall, parse_arguments, parse_call
from appliance.server.callers import tool_caller
from appliance.server.exchange import Answer, DirectRoutes, Request, json_answer
from appliance.server.visit import Visit
from appliance.toolbus.base import Tool


def tool_routes(components: Components) -> DirectRoutes:
    """Contract 6."""
    bus = components.toolbus

    async def list_tools(request: Request) -> Answer:
        tools = bus.tools(tool_caller(request.visit))
        return json_answer({"object": "list", "data": [_shown(tool) for tool in tools]})

    async def dispatch(request: Request) -> Answer:
        return _answer(await bus.invoke(tool_caller(request.visit), parse_call(request.json())))

    async def run(request: Request) -> Answer:
        call = ToolCall(request.variable, parse_arguments(request.json()))
        return _answer(await bus.invoke(tool_caller(request.visit), call))

    async def replay(request: Request) -> Answer:
        record = await bus.replay(request.variable) if is_id("tool", request.variable) else None
        if record is None or not may_see(request.visit, record):
            raise NotFound("There is no such replay for this token.", code="replay_not_found")
        return Answer(record)

    return {
        "/v1/tools": {"GET": list_tools, "POST": dispatch},
        "/v1/tools/<name>": {"POST": run},
        "/v1/tools/replay/<replay_id>": {"GET": replay},
    }


def may_see(visit: Visit, record: bytes) -> bool:
    """Whether this record is the token's own, or the token sees all."""
    token = visit.token
    return token is not None and (token.policy.admin is True or json.loads(record).get("owner") == token.fingerprint)


def _answer(invocation: Invocation) -> Answer:
    return json_answer(invocation.body())


def _shown(tool: Tool) -> dict[str, Any]:
    return {
        "name": tool.name,
        "version": tool.version,
        "description": tool.description,
        "parameters": tool.parameters,
        "declared": True,  # nothing runs here that says neither its version nor its parameters
        "source": tool.source,
    }
