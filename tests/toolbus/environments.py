"""What built-in tools are made with, in tests: settings by name, a table of names for a resolver, no backends."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import trio

from appliance.config.settings import Settings
from appliance.toolbus.base import Arguments, Outcome, Resolve, Tool, ToolEnvironment, ToolFailed


async def no_models() -> Mapping[str, Any]:
    return {}


def make_environment(
    *, resolve: Resolve | None = None, own_ports: frozenset[int] = frozenset(), files: int = 2, **settings: Any
) -> ToolEnvironment:
    return ToolEnvironment(
        settings=Settings(**settings),
        files=trio.CapacityLimiter(files),
        own_ports=own_ports,
        resolve=resolve or Names({}),
        refresh_models=no_models,
    )


class Names:
    """A resolver that knows these names, and remembers what it was asked."""

    def __init__(self, table: Mapping[str, Sequence[str]]) -> None:
        self.table = table
        self.asked: list[tuple[str, int]] = []

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append((host, port))
        if host not in self.table:
            raise OSError(-2, "Name or service not known")
        return self.table[host]


async def refused(tool: Tool, arguments: Arguments) -> ToolFailed:
    """Run a tool that is to fail. What it says is a sentence with no path of this machine in it."""
    with pytest.raises(ToolFailed) as caught:
        await tool.run(arguments)
    assert caught.value.message.endswith(".")
    assert "/tmp" not in caught.value.message
    return caught.value


async def fields(tool: Tool, arguments: Arguments) -> Mapping[str, Any]:
    outcome: Outcome = await tool.run(arguments)
    assert outcome.failure is None
    return outcome.fields


def open_files() -> set[str]:
    """What this process has open, and where it leads."""
    found = set()
    for number in os.listdir("/proc/self/fd"):
        try:
            found.add(f"{number}:{os.readlink(f'/proc/self/fd/{number}')}")
        except FileNotFoundError:  # the listing's own
            continue
    return found
