"""Agents: from a request to a run that is ready to go, new or forked; and what has become of the runs there were."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from appliance.admission.grace import Grace
from appliance.agents.admission import RunAdmission
from appliance.agents.live import LiveModel, LiveTools
from appliance.agents.reading import BadTranscript, read_transcript
from appliance.agents.recorded import ForkedModel, ForkedTools
from appliance.agents.runner import AgentRun, Model, Sink, Tools
from appliance.agents.step import STREAMED
from appliance.agents.tiers import offered_tools
from appliance.agents.transcript import (
    CANCELLED,
    Ended,
    ForkedFrom,
    Head,
    Routed,
    Transcript,
)
from appliance.agents.verify import Verdict, verify_run
from appliance.config.agent_specs import AgentSpec
from appliance.config.settings import Settings
from appliance.dispatch.caps import apply_caps
from appliance.dispatch.dispatch import Dispatcher
from appliance.dispatch.language import route_language
from appliance.dispatch.routing import LanguageRoute
from appliance.protocol.agents import ForkRequest, RunRequest, run_hash
from appliance.protocol.canonical import compact_json
from appliance.protocol.errors import InvalidRequest, NotFound
from appliance.protocol.ids import NewId
from appliance.protocol.language import LanguageRequest, parse_language_request
from appliance.storage.run_records import StoredRun
from appliance.storage.runs import RunStore
from appliance.telemetry.metrics import Metrics
from appliance.toolbus.bus import ToolBus, ToolCaller


@dataclass(frozen=True, slots=True)
class RunCaller:
    """On whose behalf an agent runs: the request, and the token behind it. `on_lease` is told the class of each call."""

    request_id: str
    tools: ToolCaller
    on_lease: Callable[[str], None]

    def may_see(self, owner: object) -> bool:
        """Whether a run of this owner is this token's to look at."""
        return owner == self.tools.owner or self.tools.policy.admin is True


@dataclass(frozen=True, slots=True)
class ReadyRun:
    """A run that was checked and routed, and has not begun."""

    head: Head
    model: Model
    tools: Tools


@dataclass(frozen=True, slots=True)
class Agents:
    """What runs need. `versions` go into every transcript."""

    specs: Mapping[str, AgentSpec]
    settings: Settings
    dispatcher: Dispatcher
    bus: ToolBus
    store: RunStore
    admission: RunAdmission
    grace: Grace
    metrics: Metrics
    versions: Mapping[str, str]
    new_id: NewId

    def prepare(self, caller: RunCaller, request: RunRequest) -> ReadyRun:
        """Raises NotFound (`unknown_agent`) and what routing, capability, readiness and an alias's caps raise."""
        spec = self.specs.get(request.agent)
        if spec is None:
            names = ", ".join(sorted(self.specs))
            raise NotFound(
                f"There is no agent {request.agent[:64]!r}: use one of {names}.", param="agent", code="unknown_agent"
            )
        offered = offered_tools(spec, self.bus.tools(caller.tools))
        route, routed = self._route(spec, request.messages, offered)
        head = self._head(caller, request.agent, spec, request.messages, routed, offered)
        return ReadyRun(head, self._live_model(caller, route), LiveTools(self.bus, caller.tools, head))

    def prepare_fork(self, caller: RunCaller, transcript: Transcript, request: ForkRequest) -> ReadyRun:
        """The same run again from a step on. Raises InvalidRequest for a step beyond its end, and what `prepare` raises."""
        before = transcript.head
        if request.from_step > len(transcript.steps):
            raise InvalidRequest(
                f"from_step is beyond the run's end: it has the steps 0 to {len(transcript.steps) - 1}.",
                param="from_step",
            )
        spec = before.spec if request.model is None else before.spec.model_copy(update={"model": request.model})
        route, routed = self._route(spec, before.messages, before.tools)
        origin = ForkedFrom(before.run_id, request.from_step, before.routes())
        head = self._head(caller, before.agent, spec, before.messages, routed, before.tools, origin)
        harmless = frozenset(tool.name for tool in self.bus.tools(caller.tools) if not tool.side_effects)
        model = ForkedModel(transcript, request.from_step, self._live_model(caller, route))
        live = LiveTools(self.bus, caller.tools, head)
        return ReadyRun(head, model, ForkedTools(transcript, request.from_step, live, harmless))

    @asynccontextmanager
    async def begin(self, ready: ReadyRun, sink: Sink) -> AsyncIterator[AgentRun]:
        """Begin a run, which has its end when the context is left. Its place among the runs of its class is the caller's
        to hold. Raises StorageFull: nothing has happened."""
        runtime_s = float(ready.head.spec.max_runtime_sec)
        run = AgentRun(ready.head, ready.model, ready.tools, sink, grace=self.grace, runtime_s=runtime_s)
        try:
            async with run:
                yield run
        finally:
            if run.ended is not None:
                self.metrics.note_run(ready.head.agent, _outcome(run.ended), run.steps)

    async def load(self, caller: RunCaller, run_id: str) -> StoredRun:
        """A run that this caller may see. Raises NotFound (`replay_not_found`), the same for others' runs as for none."""
        stored = await self.store.load(run_id)
        if stored is not None:
            owner = stored.events[0].get("owner") if stored.events else await self.store.owner_of(run_id)
            if owner is not None and caller.may_see(owner):
                return stored
        raise NotFound("There is no such run for this token.", code="replay_not_found")

    async def verify(self, stored: StoredRun) -> Verdict:
        """Do a run again from its record, and compare."""
        return await verify_run(stored.events, stored.flaw, self.grace)

    def _route(
        self, spec: AgentSpec, messages: tuple[Mapping[str, Any], ...], tools: tuple[Mapping[str, Any], ...]
    ) -> tuple[LanguageRoute, Routed]:
        """Once per run; the alias's caps are part of every call's parameters from here on."""
        wanted = _first_request(spec, messages, tools)
        route = route_language(self.dispatcher, wanted)
        body = apply_caps(wanted, route.alias)
        parameters = {name: value for name, value in body.items() if name not in {"model", "messages", "tools"}}
        return route, Routed(route.backend_class, route.model, route.reason, parameters)

    def _head(
        self,
        caller: RunCaller,
        agent: str,
        spec: AgentSpec,
        messages: tuple[Mapping[str, Any], ...],
        routed: Routed,
        offered: tuple[Mapping[str, Any], ...],
        forked_from: ForkedFrom | None = None,
    ) -> Head:
        hashed = run_hash(
            agent, spec.hashed(), list(messages), backend=routed.backend, upstream_model=routed.upstream_model
        )
        return Head(
            run_id=self.new_id("run"),
            agent=agent,
            spec=spec,
            messages=messages,
            routed=routed,
            tools=offered,
            request_hash=hashed,
            owner=caller.tools.owner,
            versions=self.versions,
            forked_from=forked_from,
        )

    def _live_model(self, caller: RunCaller, route: LanguageRoute) -> LiveModel:
        return LiveModel(
            self.dispatcher,
            route,
            request_id=caller.request_id,
            on_lease=caller.on_lease,
            metrics=self.metrics,
            wait_s=self.settings.agent_queue_timeout_sec,
            grace=self.grace,
        )


def _outcome(ended: Ended) -> str:
    if ended.error is None:
        return "ok"
    return "cancelled" if ended.error == CANCELLED else "failed"


def transcript_of(stored: StoredRun) -> Transcript:
    """Raises InvalidRequest for a run whose record is damaged."""
    try:
        if stored.flaw is None:
            return read_transcript(stored.events)
        event, reason = stored.flaw
    except BadTranscript as bad:
        event, reason = bad.event, bad.reason
    raise InvalidRequest(f"The record of this run is damaged at event {event} ({reason}): it cannot be forked.")


def _first_request(
    spec: AgentSpec, messages: tuple[Mapping[str, Any], ...], tools: tuple[Mapping[str, Any], ...]
) -> LanguageRequest:
    sampling = {"temperature": spec.temperature, "seed": spec.seed}
    given = {name: value for name, value in sampling.items() if value is not None}
    body = {
        "model": spec.model,
        "messages": list(messages),
        **({"tools": list(tools)} if tools else {}),
        **given,
        **STREAMED,
    }
    return parse_language_request("chat", body, compact_json(body))
