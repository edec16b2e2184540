"""The registry: which tools there are. Literals, so that freezing and mypy see them."""

from collections.abc import Mapping

from appliance.toolbus.base import MakeTool, Tool, ToolEnvironment
from appliance.toolbus.builtin import (
    http_fetch,
    http_fetch_local,
    models_refresh,
    noop,
    read_file,
    system_info,
    write_file,
)

BUILTINS: Mapping[str, MakeTool] = {
    "noop": noop.make,
    "read_file": read_file.make,
    "write_file": write_file.make,
    "http_fetch": http_fetch.make,
    "http_fetch_local": http_fetch_local.make,
    "system_info": system_info.make,
    "models_refresh": models_refresh.make,
}


def build_tools(environment: ToolEnvironment) -> Mapping[str, Tool]:
    """Every tool by name, whether or not it is switched on: that is the gate's to say."""
    return {name: make(environment) for name, make in BUILTINS.items()}
