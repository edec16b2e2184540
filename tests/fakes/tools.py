"""A tool whose gate a test holds, and a record log in memory that may be told to fail."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import trio

from appliance.protocol.errors import StorageFull
from appliance.toolbus.base import Outcome, Tool

ANYTHING: Mapping[str, Any] = {"type": "object"}


@dataclass(eq=False)
class GatedTool:
    """Runs until its gate opens, then gives `outcome`, or raises it."""

    outcome: Outcome | BaseException = field(default_factory=lambda: Outcome({"said": "done"}))
    parameters: Mapping[str, Any] = field(default_factory=lambda: ANYTHING)
    side_effects: bool = False
    gate: trio.Event = field(default_factory=trio.Event)
    started: int = 0
    ended: int = 0
    cancelled: int = 0

    async def run(self, arguments: Mapping[str, Any]) -> Outcome:
        self.started += 1
        try:
            await self.gate.wait()
        except trio.Cancelled:
            self.cancelled += 1
            raise
        self.ended += 1
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return self.outcome

    def tool(self, name: str = "slow") -> Tool:
        return Tool(name, "1", "Waits.", self.parameters, self.side_effects, self.run)

    def opened(self) -> "GatedTool":
        self.gate.set()
        return self


@dataclass(eq=False)
class MemoryRecords:
    """Keeps records in a list. `full`: the disk takes nothing. `gate`: a write waits for it."""

    full: bool = False
    gate: trio.Event | None = None
    lines: dict[str, bytes] = field(default_factory=dict)
    durable: list[bool] = field(default_factory=list)

    async def append(self, record_id: str, fields: Mapping[str, object], *, durable: bool) -> bytes:
        await trio.lowlevel.checkpoint()
        self.check_writable()
        if self.gate is not None:
            await self.gate.wait()
        self.durable.append(durable)
        line = self.lines[record_id] = json.dumps(fields).encode()
        return line

    def check_writable(self) -> None:
        if self.full:
            raise StorageFull("The record of this run")

    async def read(self, record_id: str) -> bytes | None:
        return self.lines.get(record_id)

    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines.values()]
