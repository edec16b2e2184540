"""Callers: a visit as the tool bus and the agents see it."""

from appliance.agents.agents import RunCaller
from appliance.protocol.errors import Unauthenticated
from appliance.server.visit import Visit
from appliance.toolbus.bus import ToolCaller


def tool_caller(visit: Visit) -> ToolCaller:
    """The bearer of the request's token. Raises Unauthenticated: no path that runs tools is open."""
    if visit.token is None:
        raise Unauthenticated("A token is needed: send it as `Authorization: Bearer <token>`.")
    return ToolCaller(visit.token.fingerprint, visit.token.policy)


def run_caller(visit: Visit) -> RunCaller:
    """The same, for an agent's run. Raises Unauthenticated."""
    return RunCaller(visit.request_id, tool_caller(visit), visit.note_lease)
