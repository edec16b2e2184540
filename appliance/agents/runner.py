"""Runner: carries out a run, action by action, through a model and tools that it is handed: live ones or recorded ones."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol

import trio

from appliance.admission.grace import Grace
from appliance.agents.answers import calls_of, read_text
from appliance.agents.step import (
    RUNTIME,
    Action,
    Answered,
    CallModel,
    Finish,
    RunTools,
    decide_next,
    spent_budget,
)
from appliance.agents.transcript import CANCELLED, Ended, Head, ModelStep, Requested, Step, ToolDone, ToolStep
from appliance.protocol.errors import GatewayError, StorageFull
from appliance.protocol.streams import usage_of

FAULT = "internal error"
EDGE_EVENT_S = 5.0  # what the first event of a run and its last may take, whoever leaves


class Model(Protocol):
    """Who answers model calls."""

    async def answer(self, call: CallModel) -> Answered:
        """Ask, and wait for all of it. Raises GatewayError: the run ends with it; RunOver: with what that says."""
        ...


class Tools(Protocol):
    """Who runs tools."""

    async def invoke(self, call: Requested, step: int) -> ToolDone:
        """Run a tool that the run offers. Raises GatewayError, RunOver as a model does."""
        ...


class Sink(Protocol):
    """Where events go."""

    async def append(self, fields: Mapping[str, Any]) -> None:
        """Keep one event; it is safe from a crash of this process when this returns. Raises StorageFull."""
        ...


class Stopped(Exception):
    """What a recorded model and recorded tools raise where they have nothing to give."""


class RunOver(Stopped):
    """A recorded run has no more to give: it ended here, in this way."""

    def __init__(self, ended: Ended) -> None:
        super().__init__(ended.error)
        self.ended = ended


class AgentRun:
    """A run. It begins on entering it as a context; on leaving, it has its end, whoever leaves and why.

    The first event and the last are kept in shielded scopes of EDGE_EVENT_S at most. Raises StorageFull where an event
    could not be kept.
    """

    def __init__(
        self,
        head: Head,
        model: Model,
        tools: Tools,
        sink: Sink,
        *,
        grace: Grace,
        runtime_s: float,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.head = head
        self._model = model
        self._tools = tools
        self._sink = sink
        self._grace = grace
        self._runtime_s = runtime_s
        self._now = now
        self._steps: list[Step] = []
        self._turn: int | None = None
        self.ended: Ended | None = None
        self._why = CANCELLED
        self._is_over = False

    @property
    def steps(self) -> int:
        """How many there were so far."""
        return len(self._steps)

    async def __aenter__(self) -> "AgentRun":
        await self._note_at_edge(self.head.fields())
        return self

    async def __aexit__(self, *_: object) -> None:
        if not self._is_over:
            self.ended = self.ended or Ended(error=self._why)
            with suppress(StorageFull):  # the first reason is the one to tell
                await self._end(self.ended)  # noqa: ASYNC102 -- _note_at_edge shields, with a deadline

    async def carry_out(self) -> Ended:
        """Every action until one says that it is over; `runtime_s` binds whatever the run is waiting for."""
        try:
            with trio.move_on_after(self._runtime_s):
                self.ended = await self._to_its_end()
            self.ended = self.ended or Ended(error=RUNTIME)
        finally:
            if trio.current_effective_deadline() != -math.inf:  # nobody left: if it ends without a reason, it is ours
                self._why = FAULT
        await self._end(self.ended)
        return self.ended

    async def _end(self, ended: Ended) -> None:
        await self._note_at_edge(ended.fields(self._turn, len(self._steps)))
        self._is_over = True

    async def _note_at_edge(self, fields: Mapping[str, Any]) -> None:
        with self._grace.shield(EDGE_EVENT_S) as scope:
            await self._note(fields)
        if scope.cancelled_caught:
            raise StorageFull("An event of this run", remedy="the disk has not answered in time")

    async def _note(self, fields: Mapping[str, Any]) -> None:
        await self._sink.append({"ts": round(self._now(), 6), **fields})

    async def _to_its_end(self) -> Ended:
        """Every action until one says that it is over."""
        while True:
            action = decide_next(self.head, self._steps)
            self._turn = action.turn
            if isinstance(action, Finish):
                return action.ended
            try:
                await self._carry_out(action)
            except RunOver as over:
                return over.ended
            except GatewayError as error:
                return Ended(error=error.message, code=error.code)

    async def _carry_out(self, action: Action) -> None:
        if isinstance(action, CallModel):
            await self._add(await self._ask(action))
        elif isinstance(action, RunTools):
            parallel = self.head.spec.parallel_tools and len(action.calls) > 1
            await (self._run_together if parallel else self._run_in_turn)(action)

    async def _ask(self, action: CallModel) -> ModelStep:
        began = time.perf_counter()
        answered = await self._model.answer(action)
        calls = () if action.kind == "plan" else calls_of(action.turn, answered.completion)
        return ModelStep(
            kind=action.kind,
            turn=action.turn,
            step=action.step,
            request=answered.request,
            response=answered.response,
            text=read_text(answered.completion),
            calls=calls or (),
            misuses_tools=calls is None,
            usage=usage_of(answered.completion),
            duration_ms=round((time.perf_counter() - began) * 1000, 3),
        )

    async def _run_in_turn(self, action: RunTools) -> None:
        for step, call in enumerate(action.calls, action.step):
            await self._add(ToolStep(action.turn, step, call, await self._tools.invoke(call, step)))
            if spent_budget(self.head, self._steps) is not None:
                return  # the calls that are left are not run

    async def _run_together(self, action: RunTools) -> None:
        """All at the same time; events come in the order of the calls, each as soon as those before it are there."""
        results: list[ToolDone | Exception | None] = [None] * len(action.calls)
        changed = trio.Event()

        async def run(number: int, call: Requested) -> None:
            nonlocal changed
            try:
                results[number] = await self._tools.invoke(call, action.step + number)
            except (GatewayError, Stopped) as error:  # carried past the nursery, which would wrap it in a group
                results[number] = error
            changed.set()
            changed = trio.Event()

        async with trio.open_nursery() as nursery:
            for number, call in enumerate(action.calls):
                nursery.start_soon(run, number, call)
            failed = await self._add_in_order(action, results, lambda: changed)
            nursery.cancel_scope.cancel()
        if failed is not None:
            raise failed

    async def _add_in_order(
        self, action: RunTools, results: Sequence[ToolDone | Exception | None], changed: Callable[[], trio.Event]
    ) -> Exception | None:
        for number, call in enumerate(action.calls):
            while (result := results[number]) is None:
                await changed().wait()
            if isinstance(result, Exception):
                return result
            try:
                await self._add(ToolStep(action.turn, action.step + number, call, result))
            except StorageFull as full:
                return full
            if spent_budget(self.head, self._steps) is not None:
                return None  # what still runs is ended, and is no part of the run
        return None

    async def _add(self, step: Step) -> None:
        await self._note(step.fields())
        self._steps.append(step)
