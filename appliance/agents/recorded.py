"""Recorded: the model and the tools of a run that happened, served from its transcript. Nothing is done again."""

from collections import defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from appliance.agents.live import refused
from appliance.agents.runner import Model, RunOver, Stopped, Tools
from appliance.agents.step import Answered, CallModel, answered
from appliance.agents.transcript import INTERRUPTED, Ended, ModelStep, Requested, Step, ToolDone, ToolStep, Transcript


@dataclass(frozen=True, slots=True)
class Difference:
    """Where two runs part: `recorded` and `now` are what each of them did at this step."""

    step: int
    what: str
    recorded: Any
    now: Any


class Diverged(Stopped):
    """The run that is done again asks for something else than the recorded one did."""

    def __init__(self, difference: Difference) -> None:
        super().__init__(difference.what)
        self.difference = difference


class RecordedModel(Model):
    """Answers with what the model answered then, to the very bytes that it was sent then. Raises Diverged, RunOver."""

    def __init__(self, transcript: Transcript) -> None:
        self._transcript = transcript

    async def answer(self, call: CallModel) -> Answered:
        step = step_at(self._transcript, call.step)
        if not isinstance(step, ModelStep):
            raise Diverged(Difference(call.step, "type", _kind(step), call.kind))
        if not _answers(step, call):
            raise Diverged(Difference(call.step, "request", step.request.decode("utf-8"), call.request.decode("utf-8")))
        return answered(step.request, step.response)


class RecordedTools(Tools):
    """Gives what the tools gave then, to the same calls. Raises Diverged, RunOver."""

    def __init__(self, transcript: Transcript) -> None:
        self._transcript = transcript

    async def invoke(self, call: Requested, step: int) -> ToolDone:
        recorded = step_at(self._transcript, step)
        if not isinstance(recorded, ToolStep):
            raise Diverged(Difference(step, "type", _kind(recorded), "tool"))
        if recorded.call.fingerprint() != call.fingerprint():
            raise Diverged(Difference(step, "call", _shown(recorded.call), _shown(call)))
        return recorded.done


class ForkedModel(Model):
    """The recorded answers up to a step, whatever they are asked; live ones from there on."""

    def __init__(self, transcript: Transcript, from_step: int, live: Model) -> None:
        self._transcript = transcript
        self._from_step = from_step
        self._live = live

    async def answer(self, call: CallModel) -> Answered:
        if call.step >= self._from_step:
            return await self._live.answer(call)
        step = self._transcript.steps[call.step]
        if not isinstance(step, ModelStep):
            raise _other_rules(call.step)
        return answered(step.request if _answers(step, call) else call.request, step.response)


class ForkedTools(Tools):
    """Recorded results while calls match recorded ones; others run live if they can change nothing.

    Each recorded result is given once, in the order in which they came. A call with side effects that the recorded run
    did not make is refused, and the model is told so: a fork changes nothing in the world.
    """

    def __init__(self, transcript: Transcript, from_step: int, live: Tools, harmless: frozenset[str]) -> None:
        self._transcript = transcript
        self._from_step = from_step
        self._live = live
        self._harmless = harmless
        self._results: Mapping[str, deque[ToolDone]] = defaultdict(deque)
        for step in transcript.steps[from_step:]:
            if isinstance(step, ToolStep):
                self._results[step.call.fingerprint()].append(step.done)

    async def invoke(self, call: Requested, step: int) -> ToolDone:
        if step < self._from_step:
            recorded = self._transcript.steps[step]
            if not isinstance(recorded, ToolStep) or recorded.call.fingerprint() != call.fingerprint():
                raise _other_rules(step)
            return recorded.done
        if results := self._results[call.fingerprint()]:
            return results.popleft()
        if call.name in self._harmless:
            return await self._live.invoke(call, step)
        return refused(
            "not_recorded", f"This run is a fork: {call.name[:64]} may not do what the run before did not do."
        )


class MemorySink:
    """Keeps events for a comparison."""

    def __init__(self) -> None:
        self.events: list[Mapping[str, Any]] = []

    async def append(self, fields: Mapping[str, Any]) -> None:
        self.events.append(fields)


def step_at(transcript: Transcript, number: int) -> Step:
    """The recorded step. Raises RunOver where the run ended before it, in the way it did."""
    if number < len(transcript.steps):
        return transcript.steps[number]
    raise RunOver(transcript.ended or Ended(error=INTERRUPTED))


def _other_rules(step: int) -> RunOver:
    """The end of a fork whose recorded answers lead elsewhere now: the gateway that recorded them had other rules."""
    return RunOver(Ended(error=f"the recorded run cannot be followed at step {step}", code="diverged"))


def _answers(step: ModelStep, call: CallModel) -> bool:
    """Whether this step was sent this call, as a stream or, where the server could not, whole."""
    return step.request == call.request or step.request == call.whole().request


def _kind(step: Step) -> str:
    return step.kind if isinstance(step, ModelStep) else "tool"


def _shown(call: Requested) -> dict[str, Any]:
    return {"tool": call.name, "arguments": dict(call.arguments)}
