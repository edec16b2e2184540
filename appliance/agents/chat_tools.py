"""Chat tools: a chat whose tool calls the gateway runs on its bus (`X-Gateway-Tools: run`), whole or streamed.

The model is offered the client's tools and those that the token may run here. An answer whose calls are all ours is run
and asked on; any other answer goes to the client as it is, its calls included. A slot is held for each model call, not
while tools run.
"""

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

from appliance.admission.grace import Grace
from appliance.agents.answers import InvalidToolCall, read_calls
from appliance.agents.chat_turns import TurnReader
from appliance.agents.live import RELEASE_S, refused
from appliance.agents.tiers import function_of
from appliance.agents.transcript import Requested, ToolDone
from appliance.dispatch.dispatch import Caller, Dispatcher
from appliance.dispatch.language import LanguageJob, admit_language, admit_routed, answer, open_stream
from appliance.dispatch.streamed import answer_by_stream, as_stream, refuses_streams
from appliance.protocol.canonical import canonical_json, compact_json
from appliance.protocol.errors import GatewayError, InvalidRequest, StorageFull, ToolLoopExceeded, UpstreamFailed
from appliance.protocol.ids import NewId
from appliance.protocol.language import LanguageRequest, parse_language_request
from appliance.protocol.streams import Usage, ended_early, usage_of
from appliance.protocol.tools import ToolCall
from appliance.toolbus.bus import ToolBus, ToolCaller

MAX_MODEL_CALLS = 8  # contract 3

Send = Callable[[bytes], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Turn:
    """One model call that was admitted: its slot is on `stack`, and comes back when the call has ended."""

    wanted: LanguageRequest
    job: LanguageJob
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)


@dataclass(frozen=True, slots=True)
class ToolChat:
    """What such a chat needs. `wait_s`: how long each model call but the first waits for its slot."""

    dispatcher: Dispatcher
    bus: ToolBus
    grace: Grace
    tools: ToolCaller
    request_id: str
    on_lease: Callable[[str], None]
    wait_s: float
    new_id: NewId

    def begin(self, wanted: LanguageRequest, *, x_backend: str | None, request_type: str | None) -> Turn:
        """Admit the first model call of a chat request: a full class is said at once.

        The caller closes the turn's stack, at the latest when its request ends. Raises InvalidRequest, and what
        `admit_language` raises.
        """
        offering = self._offer(wanted)
        stack = AsyncExitStack()
        caller = Caller(self.request_id, stack, self.on_lease)
        job = admit_language(self.dispatcher, caller, offering, x_backend=x_backend, request_type=request_type)
        return Turn(offering, job, stack)

    async def answer(self, turn: Turn) -> bytes:
        """The final answer, whole; its usage is that of all calls. Raises ToolLoopExceeded, StorageFull, and what model
        calls raise."""
        usage = Usage()
        for left in reversed(range(MAX_MODEL_CALLS)):
            said = await self._answer_turn(turn)
            usage = _sum(usage, usage_of(said))
            calls = self._ours(said, left)
            if not calls:
                return _with_usage(said, usage)
            if left:
                turn = await self._ask_on(turn, _text(said), calls)
        raise _exceeded()

    async def stream(self, turn: Turn, send: Send) -> None:
        """The same, as events of a chat: text as it comes, calls that are ours left out, one end. Raises the same."""
        reader = TurnReader(include_usage=turn.wanted.include_usage, new_id=self.new_id)
        for left in reversed(range(MAX_MODEL_CALLS)):
            await self._stream_turn(turn, reader, send)
            calls = self._ours(reader.answer(), left)
            if not calls:
                await send(reader.end())
                return
            if left:
                turn = await self._ask_on(turn, reader.text, calls)
                reader.next_turn()
        raise _exceeded()

    async def _answer_turn(self, turn: Turn) -> Mapping[str, Any]:
        try:
            return await self._ask(turn)
        finally:
            with self.grace.shield(RELEASE_S):
                await turn.stack.aclose()  # noqa: ASYNC102 -- the shield of Grace has its deadline

    async def _ask(self, turn: Turn) -> Mapping[str, Any]:
        """By a stream, as agents ask; a server that refuses it is asked whole, as the client did."""
        try:
            return (await answer_by_stream(self.dispatcher, as_stream(turn.job), self.new_id)).completion
        except UpstreamFailed as error:
            if not refuses_streams(error):
                raise
        said: Mapping[str, Any] = json.loads(await answer(self.dispatcher, turn.job))
        return said

    async def _stream_turn(self, turn: Turn, reader: TurnReader, send: Send) -> None:
        upstream = turn.job.call.backend_class.name
        try:
            source = await turn.stack.enter_async_context(open_stream(self.dispatcher, turn.job))
            while not reader.done and (piece := await source.receive()):
                if shown := reader.feed(piece, upstream):
                    await send(shown)
        finally:
            with self.grace.shield(RELEASE_S):
                await turn.stack.aclose()  # noqa: ASYNC102 -- the shield of Grace has its deadline
        if not reader.finished:
            raise ended_early(upstream)

    async def _ask_on(self, turn: Turn, text: str, calls: Sequence[Requested]) -> Turn:
        """Run the calls in their order, tell the model what they gave, and admit its next call."""
        told = [_told(call, await self._run(call)) for call in calls]
        assistant = {"role": "assistant", "content": text, "tool_calls": [_as_openai(call) for call in calls]}
        forced = turn.wanted.body.get("tool_choice") not in (None, "auto")  # once: or it would call for ever
        wanted = _changed(
            turn.wanted,
            messages=[*turn.wanted.body["messages"], assistant, *told],
            **({"tool_choice": "auto"} if forced else {}),
        )
        stack = AsyncExitStack()
        caller = Caller(self.request_id, stack, self.on_lease)
        return Turn(
            wanted,
            await admit_routed(self.dispatcher, caller, wanted, turn.job.route, wait_s=self.wait_s),
            stack,
        )

    async def _run(self, call: Requested) -> ToolDone:
        try:
            ran = await self.bus.invoke(self.tools, ToolCall(call.name, call.arguments))
        except StorageFull:
            raise
        except GatewayError as error:  # the bus refused it: the model may do better
            return refused(error.code or "refused", error.message)
        return ToolDone(ran.ok, ran.result)

    def _offer(self, wanted: LanguageRequest) -> LanguageRequest:
        """The request with the gateway's tools beside the client's, which keep their names."""
        if wanted.body.get("n") not in {None, 1}:
            raise InvalidRequest("With X-Gateway-Tools there is one answer: leave n out.", param="n")
        given = list(wanted.body.get("tools") or [])
        names = {tool["function"]["name"] for tool in given if tool.get("type") == "function"}
        ours = [function_of(tool) for tool in self.bus.tools(self.tools) if tool.name not in names]
        return _changed(wanted, tools=[*given, *ours]) if ours else wanted

    def _ours(self, said: Mapping[str, Any], turn: int) -> tuple[Requested, ...]:
        """The calls of an answer if every one of them is for a tool of ours; else none."""
        try:
            calls = read_calls(said, f"{self.request_id}/{turn}")
        except InvalidToolCall:
            return ()
        names = {tool.name for tool in self.bus.tools(self.tools)}
        return calls if all(call.name in names for call in calls) else ()


def _changed(wanted: LanguageRequest, **changes: Any) -> LanguageRequest:
    body = {**wanted.body, **changes}
    return parse_language_request(wanted.kind, body, compact_json(body))


def _told(call: Requested, done: ToolDone) -> dict[str, Any]:
    content = canonical_json({"ok": done.ok, **done.result}, escape_non_ascii=False)
    return {"role": "tool", "tool_call_id": call.id, "content": content}


def _as_openai(call: Requested) -> dict[str, Any]:
    arguments = canonical_json(call.arguments, escape_non_ascii=False)
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}}


def _text(said: Mapping[str, Any]) -> str:
    content = said["choices"][0]["message"].get("content")
    return content if isinstance(content, str) else ""


def _sum(one: Usage, other: Usage | None) -> Usage:
    if other is None:
        return one
    return Usage(one.prompt_tokens + other.prompt_tokens, one.completion_tokens + other.completion_tokens)


def _with_usage(said: Mapping[str, Any], usage: Usage) -> bytes:
    """What all model calls took together; details of the last call alone would be wrong."""
    if not isinstance(said.get("usage"), dict):
        return compact_json(said)
    total = usage.prompt_tokens + usage.completion_tokens
    counts = {"prompt_tokens": usage.prompt_tokens, "completion_tokens": usage.completion_tokens}
    return compact_json({**said, "usage": {**counts, "total_tokens": total}})


def _exceeded() -> ToolLoopExceeded:
    return ToolLoopExceeded(
        f"The model still called tools after {MAX_MODEL_CALLS} model calls: ask for less at once, or run tools yourself."
    )
