"""The registry: which tools there are. Literals, so that freezing and mypy see them."""

from collections.abc import Mapping

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
