"""What tests of agents share: heads, steps made by hand, and a model and tools that a test scripts."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import trio

from appliance.admission.grace import Grace
from appliance.agents.answers import calls_of, read_completion
from appliance.agents.recorded import MemorySink
from appliance.agents.runner import AgentRun, Model, Tools
from appliance.agents.step import Answered, CallModel, answered
from appliance.agents.transcript import Ended, Head, ModelStep, Requested, Routed, Step, ToolDone, ToolStep
from appliance.config.agent_specs import AgentSpec

FUNCTION = {
    "type": "function",
    "function": {"name": "noop", "description": "Nothing.", "parameters": {"type": "object"}},
}


def make_head(*, messages: Sequence[Mapping[str, Any]] = ({"role": "user", "content": "hello"},), **spec: Any) -> Head:
    return Head(
        run_id="run-" + "1" * 24,
        agent="default",
        spec=AgentSpec(**spec),
        messages=tuple(messages),
        routed=Routed("mock", "tiny", "alias:fast", {"temperature": 0.5}),
        tools=(FUNCTION,),
        request_hash="ab" * 32,
        owner="owner-1",
        versions={"gateway": "0"},
    )


def said(text: str = "", *calls: Mapping[str, Any]) -> bytes:
    """A chat completion. Calls: `{"name", "arguments"}`, arguments as they are to stand there."""
    tool_calls = [{"id": f"c{n}", "type": "function", "function": dict(call)} for n, call in enumerate(calls)]
    message = {"role": "assistant", "content": text, **({"tool_calls": tool_calls} if calls else {})}
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    return json.dumps({"id": "x", "created": 1, "choices": [{"index": 0, "message": message}], "usage": usage}).encode()


def call(name: str = "noop", **arguments: Any) -> dict[str, Any]:
    return {"name": name, "arguments": json.dumps(arguments)}


def plan(turn: int, step: int, text: str = "think") -> ModelStep:
    return ModelStep("plan", turn, step, b"{}", said(text), text)


def action(turn: int, step: int, text: str = "", *calls: Requested, response: bytes | None = None) -> ModelStep:
    """An action that called these, or what stands in this response."""
    body = response if response is not None else said(text, *map(_wire, calls))
    found = calls or calls_of(turn, read_completion(body))
    return ModelStep("assistant", turn, step, b"{}", body, text, found or (), misuses_tools=found is None)


def ran(turn: int, step: int, requested: Requested, io_bytes: int = 0, **result: Any) -> ToolStep:
    return ToolStep(turn, step, requested, ToolDone(True, result, "1", "h", "tool-" + "0" * 24, io_bytes, 1.5))


def _wire(requested: Requested) -> dict[str, Any]:
    return {"name": requested.name, "arguments": json.dumps(requested.arguments)}


@dataclass(eq=False)
class ScriptedModel(Model):
    """Answers from a list, or raises what stands in it; a callable is asked with the call. Then it waits for ever."""

    answers: list[bytes | Exception | Callable[[CallModel], bytes]]
    asked: list[CallModel] = field(default_factory=list)
    cancelled: int = 0

    async def answer(self, call: CallModel) -> Answered:
        self.asked.append(call)
        if len(self.asked) > len(self.answers):
            try:
                await trio.sleep_forever()
            except trio.Cancelled:
                self.cancelled += 1
                raise
        await trio.lowlevel.checkpoint()
        given = self.answers[len(self.asked) - 1]
        if isinstance(given, Exception):
            raise given
        return answered(call.request, given(call) if callable(given) else given)


@dataclass(eq=False)
class ScriptedTools(Tools):
    """Echoes; `delays` by argument `n` let later calls end first. `running` counts those that run now."""

    io_bytes: int = 1
    delays: Mapping[int, float] = field(default_factory=dict)
    fail: Exception | None = None
    asked: list[Requested] = field(default_factory=list)
    running: int = 0
    most: int = 0

    async def invoke(self, call: Requested, step: int) -> ToolDone:
        self.asked.append(call)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await trio.sleep(self.delays.get(call.arguments.get("n", 0), 0))
        finally:
            self.running -= 1
        if self.fail is not None:
            raise self.fail
        return ToolDone(True, {"echo": dict(call.arguments)}, "1", "h", "tool-" + "0" * 24, self.io_bytes, 0.5)


async def run(head: Head, model: Model, tools: Tools | None = None) -> tuple[Ended, list[Mapping[str, Any]]]:
    """A run to its end, and its events."""
    sink = MemorySink()
    runtime_s = float(head.spec.max_runtime_sec)
    live = tools or ScriptedTools()
    started = AgentRun(head, model, live, sink, grace=Grace(), runtime_s=runtime_s, now=lambda: 1_700_000_000.5)
    async with started as running:
        ended = await running.carry_out()
    return ended, sink.events


def kinds(events: Sequence[Mapping[str, Any]]) -> list[str]:
    return [event["type"] for event in events]


def steps_of(*steps: Step) -> tuple[Step, ...]:
    return steps
