"""The gate: may this token run this tool? Pure. Denied looks like missing."""

from collections.abc import Collection, Iterator, Mapping
from typing import Literal, get_args

from appliance.config.policies import TokenPolicy
from appliance.config.settings import Settings
from appliance.protocol.errors import UndeclaredTool, UnknownTool
from appliance.toolbus.base import Tool

Switch = Literal["shell", "fs", "fs_write", "http_fetch", "git", "system_info", "models_refresh"]

# Tools that are off until an operator switches them on: TOOLS_ALLOW_<switch>, which a token's policy may take back.
SWITCHES: Mapping[str, Switch] = {
    "shell": "shell",
    "read_file": "fs",
    "write_file": "fs_write",
    "http_fetch": "http_fetch",
    "http_fetch_local": "http_fetch",
    "git": "git",
    "system_info": "system_info",
    "models_refresh": "models_refresh",
}


def features(settings: Settings) -> tuple[str, ...]:
    """The switches that are on."""
    return tuple(switch for switch in get_args(Switch) if getattr(settings, f"tools_allow_{switch}"))


def decide_tool(name: str, tools: Mapping[str, Tool], settings: Settings, policy: TokenPolicy) -> Tool:
    """The tool, if this token may run it: policy, allowlist, switches, in that order. Raises UnknownTool, UndeclaredTool."""
    if not _is_in(name, policy.tools_allowlist) or not _is_in(name, settings.tools_allowlist):
        raise UnknownTool(name)
    tool = tools.get(name)
    if tool is None:
        raise UndeclaredTool(name) if name in settings.tools_allowlist else UnknownTool(name)
    switch = SWITCHES.get(name)
    if switch is not None and not _is_on(switch, settings, policy):
        raise UnknownTool(name)
    return tool


def visible_tools(tools: Mapping[str, Tool], settings: Settings, policy: TokenPolicy) -> Iterator[Tool]:
    """Every tool that this token may run, by name."""
    for name in sorted(tools):
        try:
            yield decide_tool(name, tools, settings, policy)
        except UnknownTool:
            continue


def _is_in(name: str, allowlist: Collection[str]) -> bool:
    """An empty list does not restrict."""
    return not allowlist or name in allowlist


def _is_on(switch: Switch, settings: Settings, policy: TokenPolicy) -> bool:
    own = getattr(policy, f"tools_allow_{switch}")
    return bool(getattr(settings, f"tools_allow_{switch}")) and own is not False
