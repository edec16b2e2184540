"""Step: from a transcript to the next action. Pure: the same transcript has the same next action, now and in years."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from appliance.agents.answers import read_completion
from appliance.agents.transcript import Ended, Head, ModelKind, ModelStep, Requested, Step, ToolStep
from appliance.protocol.canonical import canonical_json

MAX_RESULT_CHARS = 20_000  # of one tool result, as the model is shown it; the transcript has all of it

MAX_TOOL_CALLS = 1_000  # of a run whose spec names no number: one answer of a model may hold a hundred thousand

STREAMED: Mapping[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}
"""By which a call asks for a stream: parameters of every run that begins now. Runs that were recorded before agents
streamed have none of them, so the step function makes their requests as they were."""

TURN_LIMIT = "agent turn limit exceeded"
RUNTIME = "agent runtime budget exceeded"
TOOL_IO = "tool IO budget exceeded"
TOOL_CALLS = "agent tool call limit exceeded"
INVALID_CALL = "invalid tool call from model"

PLAN = (
    "You are planning the next step of a task. Say in a few short sentences what to do next and with which tools, or "
    "that the task is done and what the answer is. Do not call a tool now. Tools: {tools}."
)
ACT = "Carry out the next step of the task: call tools where they are needed, or give the final answer.\n\nPlan: {plan}"
NO_TOOLS = "none"


@dataclass(frozen=True, slots=True)
class CallModel:
    """Ask the model. `body`: the chat request."""

    kind: ModelKind
    turn: int
    step: int
    body: Mapping[str, Any]

    @property
    def request(self) -> bytes:
        """The exact bytes that are sent: sorted, since the messages of a run come back sorted from its record."""
        text = canonical_json(self.body, escape_non_ascii=False)
        try:
            return text.encode("utf-8")
        except UnicodeEncodeError:  # half a surrogate pair, from a model
            return canonical_json(self.body).encode("ascii")

    def whole(self) -> "CallModel":
        """The same call, asking for its answer in one piece: for a server that cannot stream it."""
        return replace(self, body={name: value for name, value in self.body.items() if name not in STREAMED})


@dataclass(frozen=True, slots=True)
class Answered:
    """How a model call went. `request`: the bytes that were answered, those of the call or of its whole form.

    `response`: the body that was received, byte for byte; `completion`: what `read_completion` finds in it, so that it is
    read once. Of a stream, it is every byte up to the end of the event `[DONE]`, or of the body where there is none. Where
    a backend translates, as Ollama's does, both are what it translates: OpenAI's request, and events in OpenAI's shape.
    """

    request: bytes
    response: bytes
    completion: Mapping[str, Any]


def answered(request: bytes, response: bytes) -> Answered:
    """A model call of which there is no more than the bytes."""
    return Answered(request, response, read_completion(response))


@dataclass(frozen=True, slots=True)
class RunTools:
    """Run these, in this order; the first has the number `step`."""

    turn: int
    step: int
    calls: tuple[Requested, ...]


@dataclass(frozen=True, slots=True)
class Finish:
    """It is over, this way."""

    turn: int | None
    ended: Ended


Action = CallModel | RunTools | Finish


def decide_next(head: Head, steps: Sequence[Step]) -> Action:
    """The next action of a run that has come this far and has not ended."""
    if not steps:
        return _plan(head, steps, turn=0)
    last = steps[-1]
    if isinstance(last, ToolStep):
        return _after_tool(head, steps, last)
    return _act(head, steps, last) if last.kind == "plan" else _after_answer(head, steps, last)


def spent_budget(head: Head, steps: Iterable[Step]) -> Ended | None:
    """The end of a run whose tools have read and written more than they may; None while they have not."""
    spent = sum(step.done.io_bytes for step in steps if isinstance(step, ToolStep))
    return Ended(error=TOOL_IO) if spent > head.spec.max_total_tool_io_bytes else None


def _plan(head: Head, steps: Sequence[Step], turn: int) -> Action:
    names = ", ".join(tool["function"]["name"] for tool in head.tools) or NO_TOOLS
    return _call(head, steps, "plan", turn, PLAN.format(tools=names), offer=False)


def _act(head: Head, steps: Sequence[Step], plan: ModelStep) -> Action:
    return _call(head, steps, "assistant", plan.turn, ACT.format(plan=plan.text.strip() or "none"), offer=True)


def _after_answer(head: Head, steps: Sequence[Step], answer: ModelStep) -> Action:
    if answer.misuses_tools:
        return Finish(answer.turn, Ended(error=INVALID_CALL))
    if not answer.calls:
        return Finish(answer.turn, Ended(output_text=answer.text))
    limit = head.spec.max_tool_calls or MAX_TOOL_CALLS
    if sum(isinstance(step, ToolStep) for step in steps) + len(answer.calls) > limit:
        return Finish(answer.turn, Ended(error=TOOL_CALLS))
    return RunTools(answer.turn, len(steps), answer.calls)


def _after_tool(head: Head, steps: Sequence[Step], last: ToolStep) -> Action:
    if (ended := spent_budget(head, steps)) is not None:
        return Finish(last.turn, ended)
    answer = next(step for step in reversed(steps) if isinstance(step, ModelStep))
    done = len(steps) - 1 - answer.step
    if rest := answer.calls[done:]:
        return RunTools(last.turn, len(steps), rest)
    if last.turn + 1 >= head.spec.max_turns:
        return Finish(last.turn, Ended(error=TURN_LIMIT))
    return _plan(head, steps, last.turn + 1)


def _call(head: Head, steps: Sequence[Step], kind: ModelKind, turn: int, instruction: str, *, offer: bool) -> CallModel:
    routed = head.routed_at(len(steps))
    tools = {"tools": list(head.tools)} if offer and head.tools else {}
    messages = [_system(head, instruction), *_conversation(head, steps)]
    body = {"model": routed.upstream_model, "messages": messages, **tools, **routed.parameters}
    return CallModel(kind, turn, len(steps), body)


def _system(head: Head, instruction: str) -> dict[str, Any]:
    """One system message alone, and first: many chat templates take no other."""
    own = [head.spec.instructions] if head.spec.instructions else []
    given = [_text(message) for message in head.messages if message["role"] in {"system", "developer"}]
    return {"role": "system", "content": "\n\n".join([*own, *given, instruction])}


def _conversation(head: Head, steps: Sequence[Step]) -> Iterable[dict[str, Any]]:
    """What was said in the run, without the plans: each stands in the instruction of its own action."""
    yield from (dict(message) for message in head.messages if message["role"] not in {"system", "developer"})
    for step in steps:
        if isinstance(step, ToolStep):
            yield {"role": "tool", "tool_call_id": step.call.id, "content": _shown(step)}
        elif step.kind == "assistant":
            yield {"role": "assistant", "content": step.text, "tool_calls": [_as_openai(call) for call in step.calls]}


def _shown(step: ToolStep) -> str:
    """Without ids and times: the same results make the same next request."""
    text = canonical_json({"ok": step.done.ok, **step.done.result}, escape_non_ascii=False)
    if len(text) <= MAX_RESULT_CHARS:
        return text
    return f"{text[:MAX_RESULT_CHARS]} ... ({len(text) - MAX_RESULT_CHARS} characters more)"


def _as_openai(call: Requested) -> dict[str, Any]:
    arguments = canonical_json(call.arguments, escape_non_ascii=False)
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}}


def _text(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list):
        return "\n".join(part["text"] for part in content if part.get("type") == "text")
    return str(content or "")
