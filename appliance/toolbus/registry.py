"""The registry: which tools there are. Literals, so that freezing and mypy see them."""

from collections.abc import Mapping, Sequence
from typing import Any

import trio

from appliance.config.settings import Settings
from appliance.config.tool_registry import ToolRegistry
from appliance.toolbus.base import MakeTool, Tool, ToolEnvironment
from appliance.toolbus.builtin import (
    git,
    http_fetch,
    http_fetch_local,
    models_refresh,
    noop,
    read_file,
    shell,
    system_info,
    write_file,
)
from appliance.toolbus.declared import make_declared

BUILTINS: Mapping[str, MakeTool] = {
    "noop": noop.make,
    "read_file": read_file.make,
    "write_file": write_file.make,
    "shell": shell.make,
    "git": git.make,
    "http_fetch": http_fetch.make,
    "http_fetch_local": http_fetch_local.make,
    "system_info": system_info.make,
    "models_refresh": models_refresh.make,
}


def build_tools(environment: ToolEnvironment, registry: ToolRegistry | None) -> Mapping[str, Tool]:
    """Every tool by name, whether or not it is switched on: that is the gate's to say."""
    builtin = {name: make(environment) for name, make in BUILTINS.items()}
    declared = registry.tools if registry is not None else ()
    return {**builtin, **{tool.name: make_declared(tool, environment) for tool in declared}}


def described_tools(settings: Settings, registry: ToolRegistry | None) -> list[dict[str, Any]]:
    """What each tool says of itself, by name: for a release's manifest. Nothing that is made here can run."""
    nowhere = ToolEnvironment(settings, trio.CapacityLimiter(1), frozenset(), _no_addresses, _no_models)
    return [
        {
            "name": name,
            "version": tool.version,
            "description": tool.description,
            "parameters": dict(tool.parameters),
            "side_effects": tool.side_effects,
        }
        for name, tool in sorted(build_tools(nowhere, registry).items())
    ]


async def _no_addresses(host: str, _port: int) -> Sequence[str]:
    raise OSError(f"{host} is not looked up here")


async def _no_models() -> Mapping[str, Any]:
    return {}
