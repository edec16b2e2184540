"""Live: the model and the tools of a run that happens now, through dispatch and the tool bus like anybody's."""

from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace

from appliance.admission.grace import Grace
from appliance.agents.answers import no_id
from appliance.agents.runner import Model, Tools
from appliance.agents.step import Answered, CallModel, answered
from appliance.agents.transcript import Head, Requested, ToolDone
from appliance.dispatch.dispatch import Caller, Dispatcher
from appliance.dispatch.language import LanguageJob, admit_routed, answer
from appliance.dispatch.routing import LanguageRoute
from appliance.dispatch.streamed import answer_by_stream, as_whole, refuses_streams
from appliance.protocol.errors import InvalidArguments, RateLimited, UndeclaredTool, UnknownTool, UpstreamFailed
from appliance.protocol.language import LanguageRequest
from appliance.protocol.streams import usage_of
from appliance.protocol.tools import ToolCall
from appliance.telemetry.metrics import Metrics
from appliance.toolbus.bus import ToolBus, ToolCaller
from appliance.toolbus.meter import IoBudget

RELEASE_S = 5.0  # what giving a slot back may take; a language backend has nothing to confirm

_NOT_RUN = (InvalidArguments, RateLimited, UndeclaredTool, UnknownTool)


class LiveModel(Model):
    """Calls the model where the run was routed. The class's slot is held for each call, not in between.

    `on_lease` is told the class, for the request's journal line.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        route: LanguageRoute,
        *,
        request_id: str,
        on_lease: Callable[[str], None],
        metrics: Metrics,
        wait_s: float,
        grace: Grace,
    ) -> None:
        self._dispatcher = dispatcher
        self._route = route
        self._request_id = request_id
        self._on_lease = on_lease
        self._metrics = metrics
        self._wait_s = wait_s
        self._grace = grace

    async def answer(self, call: CallModel) -> Answered:
        """Raises what dispatch and the backend raise: BackendOverloaded after `wait_s`, UpstreamFailed, ..."""
        wanted = _asking(call)
        stack = AsyncExitStack()
        try:
            caller = Caller(self._request_id, stack, self._on_lease)
            job = await admit_routed(self._dispatcher, caller, wanted, self._route, wait_s=self._wait_s)
            given = await self._ask(call, wanted.raw, job)
        finally:
            with self._grace.shield(RELEASE_S):
                await stack.aclose()  # noqa: ASYNC102 -- the shield of Grace has its deadline
        if (usage := usage_of(given.completion)) is not None:
            name = job.call.backend_class.name
            self._metrics.note_tokens(name, usage.prompt_tokens, usage.completion_tokens)
        return given

    async def _ask(self, call: CallModel, request: bytes, job: LanguageJob) -> Answered:
        """By a stream: a backend stops at once when nobody reads on. A server that refuses it is asked whole, once."""
        received: list[bytes] = []
        try:
            streamed = await answer_by_stream(self._dispatcher, job, no_id, on_received=received.append)
        except UpstreamFailed as error:
            if not refuses_streams(error):
                raise
        else:
            if streamed.whole is not None:
                return answered(request, streamed.whole)
            return Answered(request, b"".join(received), streamed.completion)
        whole = call.whole()
        job = as_whole(self._dispatcher, job, whole.body, whole.request)
        return answered(whole.request, await answer(self._dispatcher, job))


class LiveTools(Tools):
    """Runs tools on the bus, as the token that started the run may; what the run does not offer is not run."""

    def __init__(self, bus: ToolBus, caller: ToolCaller, head: Head) -> None:
        self._bus = bus
        self._caller = caller
        self._head = head
        self._budget = IoBudget(head.spec.max_total_tool_io_bytes)

    async def invoke(self, call: Requested, step: int) -> ToolDone:
        """A call that the bus refuses is told to the model, which may do better. Raises StorageFull.

        A program that overdraws the run's IO budget is ended at once, and its bytes are what ends the run.
        """
        if not self._head.offers(call.name):
            return refused("unknown_tool", f"There is no tool {call.name[:64]!r} in this run.")
        try:
            with self._budget.metered() as metered:
                ran = await self._bus.invoke(self._caller, ToolCall(call.name, call.arguments))
        except _NOT_RUN as error:
            return refused(error.code or "refused", error.message)
        if metered.scope.cancelled_caught:
            overdrawn = refused("io_budget", f"{call.name} was ended: the run's IO budget is spent.")
            return replace(overdrawn, io_bytes=metered.counted)
        self._budget.settle(metered, ran.io_bytes)
        return ToolDone(
            ok=ran.ok,
            result=ran.result,
            version=ran.version,
            request_hash=ran.request_hash,
            replay_id=ran.replay_id,
            io_bytes=ran.io_bytes,
            runtime_ms=ran.runtime_ms,
        )


def _asking(call: CallModel) -> LanguageRequest:
    """What the step function makes is not checked again: the run's messages and parameters were, as it began."""
    body = call.body
    return LanguageRequest(
        kind="chat",
        body=body,
        raw=call.request,
        model=body["model"],
        stream=True,
        include_usage=True,
        has_tools="tools" in body,
    )


def refused(kind: str, message: str) -> ToolDone:
    """A call that was not run."""
    return ToolDone(False, {"error": "tool_refused", "error_type": kind, "error_message": message})
