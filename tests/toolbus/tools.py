"""Tools as the bus would make them, with settings of a test's own."""

from collections.abc import Awaitable, Mapping, Sequence
from typing import Any

import trio

from appliance.config.settings import Settings
from appliance.toolbus.base import ToolEnvironment


def environment(**settings: Any) -> ToolEnvironment:
    return ToolEnvironment(
        settings=Settings(**settings),
        files=trio.CapacityLimiter(2),
        own_ports=frozenset(),
        resolve=_never_resolved,
        refresh_models=_never_refreshed,
    )


def _never_resolved(host: str, port: int) -> Awaitable[Sequence[str]]:
    raise AssertionError("no program's tool looks a name up")


def _never_refreshed() -> Awaitable[Mapping[str, Any]]:
    raise AssertionError("no program's tool asks for models")
