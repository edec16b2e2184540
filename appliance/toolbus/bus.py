"""The bus: the one way to run a tool. Gate, rate, slot, schema, run, record: HTTP, chats and agents come through here."""

import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, Protocol

import trio

from appliance.admission.grace import Grace
from appliance.config.policies import TokenPolicy
from appliance.config.settings import Settings
from appliance.protocol.errors import RateLimited, StorageFull
from appliance.protocol.ids import NewId
from appliance.protocol.tools import Invocation, ToolCall, request_hash
from appliance.telemetry.metrics import Metrics
from appliance.toolbus.base import Outcome, Tool, ToolFailed
from appliance.toolbus.gate import decide_tool, visible_tools
from appliance.toolbus.rates import RateLimits, decide_rate
from appliance.toolbus.schemas import Schemas

RECORD_S = 5.0  # what the record of a run that was cut off may take
RETRY_AFTER_S = 1.0  # tools take milliseconds to seconds


class Records(Protocol):
    """Where records go. `storage.records.RecordLog`, or a test's."""

    async def append(self, record_id: str, fields: Mapping[str, object], *, durable: bool) -> bytes:
        """Returns the stored line once a crash of this process cannot lose it; durable: nor a power cut.

        Raises StorageFull.
        """
        ...

    def check_writable(self) -> None:
        """Raises StorageFull where a record could not be written now."""
        ...

    async def read(self, record_id: str) -> bytes | None:
        """The stored line, None where there is none, or no longer."""
        ...


@dataclass(frozen=True, slots=True)
class ToolCaller:
    """On whose behalf a tool runs: the token's fingerprint and its policy."""

    owner: str
    policy: TokenPolicy


class ToolBus:
    """Runs tools, at most TOOLS_MAX_CONCURRENT at a time.

    A call that is refused leaves nothing: no slot, no record. A run leaves one record, whatever became of it.
    """

    def __init__(
        self,
        tools: Mapping[str, Tool],
        settings: Settings,
        records: Records,
        *,
        grace: Grace,
        metrics: Metrics,
        new_id: NewId,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._tools = tools
        self._settings = settings
        self._records = records
        self._grace = grace
        self._metrics = metrics
        self._new_id = new_id
        self._now = now
        self._durable = settings.tools_durability == "strict"
        self._slots = trio.CapacityLimiter(settings.tools_max_concurrent)
        self._rates = RateLimits()
        self._schemas = Schemas()

    def __repr__(self) -> str:
        return f"<ToolBus {len(self._tools)} tools, {self.running} of {self._settings.tools_max_concurrent} running>"

    @property
    def running(self) -> int:
        """Tools that run now."""
        return self._slots.borrowed_tokens

    def tools(self, caller: ToolCaller) -> list[Tool]:
        """What this caller may run, by name."""
        return list(visible_tools(self._tools, self._settings, caller.policy))

    async def invoke(self, caller: ToolCaller, call: ToolCall) -> Invocation:
        """Run a tool and keep its record, which is stored when this returns.

        Raises UnknownTool, UndeclaredTool, RateLimited, InvalidArguments, StorageFull: nothing was run then, except that
        StorageFull may also come after a run whose record could not be written.
        """
        tool = decide_tool(call.name, self._tools, self._settings, caller.policy)
        self._rates.take_nowait(caller.owner, decide_rate(self._settings, caller.policy), trio.current_time())
        return await self._run(caller, tool, call.arguments, self._new_id("tool"))

    async def replay(self, replay_id: str) -> bytes | None:
        """The stored record, byte for byte. Whose it is, is the caller's to check."""
        return await self._records.read(replay_id)

    @asynccontextmanager
    async def _slot(self, replay_id: str) -> AsyncIterator[None]:
        try:
            self._slots.acquire_on_behalf_of_nowait(replay_id)  # a deadline and a task switch less than to wait for it
        except trio.WouldBlock:
            await self._wait_for_slot(replay_id)
        try:
            yield
        finally:
            self._slots.release_on_behalf_of(replay_id)

    async def _wait_for_slot(self, replay_id: str) -> None:
        timeout_s = self._settings.tools_concurrency_timeout_sec
        with trio.move_on_after(timeout_s) as waiting:
            await self._slots.acquire_on_behalf_of(replay_id)
        if waiting.cancelled_caught:
            raise RateLimited(
                f"All {self._settings.tools_max_concurrent} tool slots stayed taken for {timeout_s:g} s: try again.",
                RETRY_AFTER_S,
            )

    async def _run(self, caller: ToolCaller, tool: Tool, arguments: Mapping[str, Any], replay_id: str) -> Invocation:
        """Run it in a slot. Its record is stored when the slot is free again: a disk takes many at once."""
        hashed = ""
        began = 0.0
        outcome: Outcome | None = None

        async def keep(outcome: Outcome) -> Invocation:
            runtime_s = time.perf_counter() - began
            done = _invocation(replay_id, hashed, tool, arguments, outcome, runtime_s)
            self._metrics.note_tool(tool.name, _status(outcome), runtime_s)
            fields = done.record(ts=self._now(), owner=caller.owner)
            await self._records.append(replay_id, fields, durable=self._durable and tool.side_effects)
            return done

        try:
            async with self._slot(replay_id):
                self._schemas.check(tool, arguments)
                self._records.check_writable()
                hashed = request_hash(tool.name, tool.version, arguments)
                began = time.perf_counter()
                outcome = await _outcome(tool, arguments)
        finally:
            if hashed and outcome is None:  # the caller left, or the tool has a fault: it ran all the same
                with self._grace.shield(RECORD_S), suppress(StorageFull):  # nobody is there to hear of it
                    await keep(_INTERRUPTED)  # noqa: ASYNC102 -- the shield of Grace has its deadline
        return await keep(outcome)


_INTERRUPTED = Outcome(
    {}, failure=ToolFailed("interrupted", "The run was cut off: its caller left, or the tool broke.")
)


async def _outcome(tool: Tool, arguments: Mapping[str, Any]) -> Outcome:
    try:
        return await tool.run(arguments)
    except ToolFailed as failure:
        return Outcome({}, failure=failure)


def _invocation(
    replay_id: str, hashed: str, tool: Tool, arguments: Mapping[str, Any], outcome: Outcome, runtime_s: float
) -> Invocation:
    return Invocation(
        replay_id=replay_id,
        request_hash=hashed,
        tool=tool.name,
        version=tool.version,
        ok=outcome.failure is None,
        runtime_ms=round(runtime_s * 1000, 3),
        cpu_ms=round(outcome.cpu_s * 1000, 3),
        io_bytes=outcome.io_bytes,
        arguments=arguments,
        result={**outcome.fields, **_failure_fields(outcome.failure)},
    )


def _failure_fields(failure: ToolFailed | None) -> dict[str, str]:
    if failure is None:
        return {}
    return {"error": "tool_failed", "error_type": failure.kind, "error_message": failure.message}


def _status(outcome: Outcome) -> str:
    if outcome.failure is None:
        return "ok"
    return "interrupted" if outcome is _INTERRUPTED else "error"
