"""Runner: carries out a run, action by action, through a model and tools that it is handed: live ones or recorded ones."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol

import trio

from appliance.admission.grace import Grace
from appliance.agents.answers import InvalidToolCall, read_text
from appliance.agents.step import RUNTIME, Action, CallModel, Finish, RunTools, calls_of, decide_next
from appliance.agents.transcript import CANCELLED, Ended, Head, ModelStep, Requested, Step, ToolDone, ToolStep
from appliance.protocol.errors import GatewayError, StorageFull

EDGE_EVENT_S = 5.0  # what the first event of a run and its last may take, whoever leaves


class Model(Protocol):
    """Who answers model calls."""

    async def answer(self, call: CallModel) -> bytes:
        """The chat completion, as JSON. Raises GatewayError: the run ends with it; RunOver: with what that says."""
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


class RunOver(Exception):
    """A recorded run has no more to give: it ended here, in this way."""

    def __init__(self, ended: Ended) -> None:
        super().__init__(ended.error)
        self.ended = ended


async def run_agent(
    head: Head,
    model: Model,
    tools: Tools,
    sink: Sink,
    *,
    grace: Grace,
    runtime_s: float,
    now: Callable[[], float] = time.time,
) -> Ended:
    """Carry a run out to its end, which is its last event. Raises StorageFull where an event could not be kept.

    `runtime_s` binds whatever the run is waiting for. The first event and the last are kept in shielded scopes of
    EDGE_EVENT_S at most: a run that has begun has its end, also when it is cancelled.
    """
    run = _Run(head, model, tools, sink, now)
    with grace.shield(EDGE_EVENT_S):
        await run.note(head.fields())
    ended: Ended | None = None
    try:
        with trio.move_on_after(runtime_s):
            ended = await run.to_its_end()
        ended = ended or Ended(error=RUNTIME)
    finally:
        if ended is None:  # the caller left, or an event could not be kept
            with grace.shield(EDGE_EVENT_S), suppress(StorageFull):  # the first reason is the one to tell
                await run.end(Ended(error=CANCELLED))  # noqa: ASYNC102 -- the shield of Grace has its deadline
    with grace.shield(EDGE_EVENT_S):
        await run.end(ended)
    return ended


class _Run:
    """A run on its way: what has been so far, and the one way to add to it."""

    def __init__(self, head: Head, model: Model, tools: Tools, sink: Sink, now: Callable[[], float]) -> None:
        self._head = head
        self._model = model
        self._tools = tools
        self._sink = sink
        self._now = now
        self._steps: list[Step] = []
        self._turn: int | None = None

    async def to_its_end(self) -> Ended:
        """Every action until one says that it is over."""
        while True:
            action = decide_next(self._head, self._steps)
            if isinstance(action, Finish):
                self._turn = action.turn
                return action.ended
            self._turn = action.turn
            try:
                await self._carry_out(action)
            except RunOver as over:
                return over.ended
            except GatewayError as error:
                return Ended(error=error.message, code=error.code)

    async def end(self, ended: Ended) -> None:
        await self.note(ended.fields(self._turn, len(self._steps)))

    async def note(self, fields: Mapping[str, Any]) -> None:
        await self._sink.append({"ts": round(self._now(), 6), **fields})

    async def _carry_out(self, action: Action) -> None:
        if isinstance(action, CallModel):
            await self._add(await self._ask(action))
        elif isinstance(action, RunTools):
            parallel = self._head.spec.parallel_tools and len(action.calls) > 1
            await (self._run_together if parallel else self._run_in_turn)(action)

    async def _ask(self, action: CallModel) -> ModelStep:
        began = time.perf_counter()
        response = await self._model.answer(action)
        return ModelStep(
            kind=action.kind,
            turn=action.turn,
            step=action.step,
            request=action.request,
            response=response,
            text=read_text(response),
            calls=_calls(action, response),
            duration_ms=round((time.perf_counter() - began) * 1000, 3),
        )

    async def _run_in_turn(self, action: RunTools) -> None:
        for step, call in enumerate(action.calls, action.step):
            await self._add(ToolStep(action.turn, step, call, await self._tools.invoke(call, step)))
            if isinstance(decide_next(self._head, self._steps), Finish):
                return  # a budget is spent: the calls that are left are not run

    async def _run_together(self, action: RunTools) -> None:
        """All at the same time; events come in the order of the calls, each as soon as those before it are there."""
        results: list[ToolDone | Exception | None] = [None] * len(action.calls)
        changed = trio.Event()

        async def run(number: int, call: Requested) -> None:
            nonlocal changed
            try:
                results[number] = await self._tools.invoke(call, action.step + number)
            except (GatewayError, RunOver) as error:  # carried past the nursery, which would wrap it in a group
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
            await self._add(ToolStep(action.turn, action.step + number, call, result))
        return None

    async def _add(self, step: Step) -> None:
        await self.note(step.fields())
        self._steps.append(step)


def _calls(action: CallModel, response: bytes) -> tuple[Requested, ...]:
    if action.kind == "plan":
        return ()
    try:
        return calls_of(action.turn, response)
    except InvalidToolCall:
        return ()  # what comes next is decided by the response itself: the run ends
