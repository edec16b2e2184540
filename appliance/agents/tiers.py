"""Tiers: which tools an agent may have at all. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any

from appliance.config.agent_specs import AgentSpec
from appliance.toolbus.base import Tool

_TIERS: tuple[frozenset[str], ...] = (
    frozenset({"read_file", "http_fetch_local", "noop"}),
    frozenset({"write_file"}),
    frozenset({"shell"}),
)
DECLARED_TIER = 2  # tools of the registry and of MCP servers, where the allowlist names them


def offered_tools(spec: AgentSpec, tools: Iterable[Tool]) -> tuple[Mapping[str, Any], ...]:
    """Tier and allowlist of the spec, out of what the calling token may run: as OpenAI has functions, by name."""
    allowed = [tool for tool in tools if _is_allowed(spec, tool)]
    return tuple(function_of(tool) for tool in sorted(allowed, key=lambda tool: tool.name))


def _is_allowed(spec: AgentSpec, tool: Tool) -> bool:
    named = spec.tools_allowlist is None or tool.name in spec.tools_allowlist
    if tool.source != "builtin":
        return spec.tier >= DECLARED_TIER and spec.tools_allowlist is not None and named
    return named and any(tool.name in names for names in _TIERS[: spec.tier + 1])


def function_of(tool: Tool) -> Mapping[str, Any]:
    """A tool as OpenAI's chat has functions."""
    function = {"name": tool.name, "description": tool.description, "parameters": dict(tool.parameters)}
    return {"type": "function", "function": function}
