"""Verify: a recorded run done again, offline, from what it recorded; and where the two part, if they do."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from appliance.admission.grace import Grace
from appliance.agents.reading import BadTranscript, read_transcript
from appliance.agents.recorded import Difference, Diverged, MemorySink, RecordedModel, RecordedTools
from appliance.agents.runner import AgentRun
from appliance.agents.step import RUNTIME
from appliance.agents.transcript import CANCELLED, INTERRUPTED, Transcript
from appliance.protocol.agents import without_volatile

MAX_SHOWN_CHARS = 2_000
CUT_OFF = frozenset({CANCELLED, INTERRUPTED, RUNTIME})


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether every step came out the same. `divergence`: the first that did not, or the first damaged event."""

    identical: bool
    steps: int
    divergence: Mapping[str, Any] | None = None

    def body(self) -> dict[str, Any]:
        found = {"first_divergence": dict(self.divergence)} if self.divergence is not None else {}
        return {"identical": self.identical, "steps": self.steps, **found}


async def verify_run(events: Sequence[Mapping[str, Any]], flaw: tuple[int, str] | None, grace: Grace) -> Verdict:
    """Do a run again with the recorded answers and results, and compare every event but for what is volatile.

    `flaw`: the first event that is not what was written, from storage. Nothing is called, nothing is written.
    """
    if flaw is not None:
        return Verdict(False, _steps(events), {"event": flaw[0], "what": "stored event", "reason": flaw[1]})
    try:
        transcript = read_transcript(events)
    except BadTranscript as bad:
        return Verdict(False, _steps(events), {"event": bad.event, "what": "stored event", "reason": bad.reason})
    again = MemorySink()
    try:
        await _do_again(transcript, again, grace)
    except Diverged as diverged:
        return Verdict(False, len(transcript.steps), _difference(events, diverged.difference))
    if transcript.ended is None:  # it still runs: what there is of it is compared
        del again.events[len(events) :]
    for number, (recorded, now) in enumerate(zip(events, again.events, strict=False)):
        if different := _first_difference(recorded, now):
            return Verdict(False, len(transcript.steps), {"event": number, "step": recorded.get("step"), **different})
    if len(events) != len(again.events):
        counts = {"recorded": len(events), "now": len(again.events)}
        return Verdict(
            False, len(transcript.steps), {"event": min(counts.values()), "what": "number of events", **counts}
        )
    return Verdict(True, len(transcript.steps))


async def _do_again(transcript: Transcript, sink: MemorySink, grace: Grace) -> None:
    model, tools = RecordedModel(transcript), RecordedTools(transcript)
    async with AgentRun(transcript.head, model, tools, sink, grace=grace, runtime_s=math.inf) as run:
        await run.carry_out()


def _first_difference(recorded: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any] | None:
    """A run that was cut off from outside could have been cut off anywhere: its end does not follow from its steps."""
    if recorded.get("type") == "run_failed" and recorded.get("error") in CUT_OFF:
        return None
    differing = sorted(name for name in recorded.keys() | now.keys() if recorded.get(name) != now.get(name))
    before = without_volatile({name: recorded.get(name) for name in differing})
    after = without_volatile({name: now.get(name) for name in differing})
    for name in differing:
        if before.get(name) != after.get(name):
            return {"what": name, "recorded": _shown(before.get(name)), "now": _shown(after.get(name))}
    return None


def _difference(events: Sequence[Mapping[str, Any]], found: Difference) -> dict[str, Any]:
    event = next((number for number, event in enumerate(events) if event.get("step") == found.step), len(events))
    shown = {"recorded": _shown(found.recorded), "now": _shown(found.now)}
    return {"event": event, "step": found.step, "what": found.what, **shown}


def _shown(value: Any) -> Any:
    """What does not fit on a page is cut where it is text."""
    if isinstance(value, str) and len(value) > MAX_SHOWN_CHARS:
        return f"{value[:MAX_SHOWN_CHARS]} ... ({len(value) - MAX_SHOWN_CHARS} characters more)"
    return value


def _steps(events: Sequence[Mapping[str, Any]]) -> int:
    return sum(event.get("step") is not None for event in events)
