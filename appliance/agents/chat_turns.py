"""Chat turns: several streamed answers shown to a client as one. Sans-IO: events in, events out."""

from collections.abc import Mapping
from typing import Any

from appliance.protocol.canonical import compact_json
from appliance.protocol.chat_whole import ChatWhole, read_chunk
from appliance.protocol.ids import NewId
from appliance.protocol.sse import DONE, SseReader, is_done, sse_event
from appliance.protocol.streams import Usage, read_events, usage_of

_HEAD = ("id", "object", "created", "model", "system_fingerprint")


class TurnReader:
    """Reads one turn after the other. Text goes on at once; tool calls, the finish and the usage wait for `end`.

    `text`: what the turn has said. `finished`: it gave its reason to finish; `done`: its stream has nothing more to say.
    """

    def __init__(self, *, include_usage: bool, new_id: NewId) -> None:
        self._include_usage = include_usage
        self._new_id = new_id
        self._head: dict[str, Any] | None = None
        self._role_sent = False
        self._usage = Usage()
        self._saw_usage = False
        self.next_turn()

    def next_turn(self) -> None:
        """What comes now is another answer."""
        self.done = False
        self._whole = ChatWhole(self._new_id)
        self._called: list[dict[str, Any]] = []
        self._reader = SseReader()

    @property
    def text(self) -> str:
        return self._whole.text

    @property
    def finished(self) -> bool:
        return self._whole.finish_reason is not None

    def feed(self, piece: bytes, upstream: str) -> bytes:
        """What of this read the client is shown now. Raises UpstreamFailed."""
        return b"".join(self._take(event, upstream) for event in read_events(self._reader, piece, upstream))

    def answer(self) -> Mapping[str, Any]:
        """The turn as a whole chat completion."""
        said = self._whole.completion()
        self._called = said["choices"][0]["message"].get("tool_calls", [])
        return said

    def end(self) -> bytes:
        """The last events: calls that are the client's to run, the finish, the usage where it was asked for, `[DONE]`."""
        pieces = []
        if self._called:
            calls = [{"index": index, **call} for index, call in enumerate(self._called)]
            pieces.append(self._event({**self._role(), "tool_calls": calls}))
        pieces.append(self._event(self._role(), self._whole.finish_reason or "stop"))
        if self._include_usage and self._saw_usage:
            total = self._usage.prompt_tokens + self._usage.completion_tokens
            counts = {"prompt_tokens": self._usage.prompt_tokens, "completion_tokens": self._usage.completion_tokens}
            usage = {**counts, "total_tokens": total}
            pieces.append(sse_event(compact_json({**(self._head or {}), "choices": [], "usage": usage})))
        return b"".join((*pieces, DONE))

    def _take(self, event: bytes, upstream: str) -> bytes:
        if self.done or is_done(event):
            self.done = True
            return b""
        if (chunk := read_chunk(event, upstream)) is None:
            return b""
        if self._head is None:
            self._head = {name: chunk[name] for name in _HEAD if name in chunk}
        if (usage := usage_of(chunk)) is not None:
            self._saw_usage = True
            self._usage = Usage(
                self._usage.prompt_tokens + usage.prompt_tokens,
                self._usage.completion_tokens + usage.completion_tokens,
            )
        delta = self._whole.take(chunk)
        shown = {key: value for key, value in delta.items() if key not in {"tool_calls", "role"} and value}
        return self._event({**self._role(), **shown}) if shown else b""

    def _role(self) -> dict[str, str]:
        """The first event of all says who speaks; no other does."""
        if self._role_sent:
            return {}
        self._role_sent = True
        return {"role": "assistant"}

    def _event(self, delta: Mapping[str, Any], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": dict(delta), "logprobs": None, "finish_reason": finish}
        return sse_event(compact_json({**(self._head or {}), "choices": [choice]}))
