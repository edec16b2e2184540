"""Reading: the events of a run, back to the transcript that they tell of."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from appliance.agents.answers import calls_of, read_completion
from appliance.agents.transcript import (
    Ended,
    ForkedFrom,
    Head,
    ModelStep,
    Requested,
    Routed,
    Step,
    ToolDone,
    ToolStep,
    Transcript,
)
from appliance.config.agent_specs import AgentSpec
from appliance.protocol.streams import Usage


class BadTranscript(ValueError):
    """Events that are no run. `event`: the number of the first bad one, from 0."""

    def __init__(self, event: int, reason: str) -> None:
        super().__init__(reason)
        self.event = event
        self.reason = reason


def read_transcript(events: Sequence[Mapping[str, Any]]) -> Transcript:
    """Events, in their order, back to what they say. Raises BadTranscript."""
    if not events:
        raise BadTranscript(0, "there are no events")
    transcript: Transcript | None = None
    for number, event in enumerate(events):
        try:
            transcript = _read_event(transcript, event)
        except (KeyError, TypeError, ValueError, AttributeError, StopIteration) as error:
            raise BadTranscript(number, f"it cannot be read ({type(error).__name__}: {error})") from None
    if transcript is None:
        raise AssertionError("unreachable: there was an event")
    return transcript


def _read_event(before: Transcript | None, event: Mapping[str, Any]) -> Transcript:
    kind = event["type"]
    if before is None:
        if kind != "run_started":
            raise ValueError("a run begins with run_started")
        return Transcript(_read_head(event))
    if before.ended is not None:
        raise ValueError("the run had ended")
    if kind in {"run_completed", "run_failed"}:
        ended = Ended(event.get("output_text", ""), None if event["ok"] else event["error"], event.get("code"))
        return replace(before, ended=ended)
    if event["step"] != len(before.steps):
        raise ValueError(f"step {event['step']} comes after {len(before.steps)} steps")
    return replace(before, steps=(*before.steps, _read_step(kind, event)))


def _read_head(event: Mapping[str, Any]) -> Head:
    forked = event.get("forked_from")
    return Head(
        run_id=event["run_id"],
        agent=event["agent"],
        spec=AgentSpec.model_validate_json(json.dumps(event["spec"])),
        messages=tuple(event["messages"]),
        routed=_read_routed(event),
        tools=tuple(event["tools"]),
        request_hash=event["request_hash"],
        owner=event["owner"],
        versions=event["versions"],
        forked_from=forked
        and ForkedFrom(
            forked["run_id"], forked["step"], tuple((one["from_step"], _read_routed(one)) for one in event["routes"])
        ),
    )


def _read_step(kind: str, event: Mapping[str, Any]) -> Step:
    if kind == "tool":
        call = Requested(event["call_id"], event["tool"], event["arguments"])
        names = ("ok", "result", "version", "request_hash", "replay_id", "io_bytes", "runtime_ms")
        return ToolStep(event["turn"], event["step"], call, ToolDone(**{name: event[name] for name in names}))
    if kind not in {"plan", "assistant"}:
        raise ValueError(f"there is no event {kind!r}")
    calls = tuple(Requested(call["id"], call["name"], call["arguments"]) for call in event.get("tool_calls", ()))
    response = event["response"].encode("utf-8", "surrogateescape")
    acts = kind == "assistant" and not calls
    return ModelStep(
        kind="plan" if kind == "plan" else "assistant",
        turn=event["turn"],
        step=event["step"],
        request=event["request"].encode("utf-8"),
        response=response,
        text=event["text"],
        calls=calls,
        misuses_tools=acts and calls_of(event["turn"], read_completion(response)) is None,
        usage=Usage(**event["usage"]) if "usage" in event else None,
        duration_ms=event["duration_ms"],
    )


def _read_routed(event: Mapping[str, Any]) -> Routed:
    return Routed(event["backend"], event["upstream_model"], event["router_reason"], event["parameters"])
