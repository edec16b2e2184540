"""A chat stream as a responses stream: parsed chunks in, typed events out."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from appliance.protocol.canonical import compact_json
from appliance.protocol.error_answers import error_body
from appliance.protocol.errors import GatewayError
from appliance.protocol.ids import NewId
from appliance.protocol.responses_calls import Call, Calls
from appliance.protocol.responses_items import CallItem, PartKind, TextItem, TextKind
from appliance.protocol.responses_object import Status, response_object, response_usage, status_of
from appliance.protocol.sse import sse_event


class ResponsesStream:
    """Sans-IO: `feed` every chunk, then `finish` or `fail`, once; each gives bytes to send, `[DONE]` not among them.

    A chunk is OpenAI's `chat.completion.chunk`, of which the first choice counts. `created`: Unix seconds. `model` is
    what the response names until a chunk says it.
    """

    def __init__(self, body: Mapping[str, Any], *, new_id: NewId, created: int, model: str = "") -> None:
        self._body = body
        self._new_id = new_id
        self._created = created
        self._model = model or str(body.get("model") or "")
        self._id = ""
        self._usage: Mapping[str, Any] | None = None
        self._finish_reason: str | None = None
        self._status: Status = "in_progress"
        self._sequence = 0
        self._items: list[TextItem | CallItem] = []
        self._text: TextItem | None = None
        self._calls = Calls(new_id)
        self._events: list[bytes] = []

    def __repr__(self) -> str:
        return f"<ResponsesStream {self._status} items={len(self._items)} events={self._sequence}>"

    @property
    def ended(self) -> bool:
        """Whether the chat has said why it ended; a stream that breaks off before has failed."""
        return self._finish_reason is not None

    def feed(self, chunk: Mapping[str, Any]) -> bytes:
        """The events that this chunk causes; the first one begins the response."""
        model = chunk.get("model")
        if not self._id and isinstance(model, str) and model:
            self._model = model
        self._begin()
        usage = chunk.get("usage")
        if isinstance(usage, Mapping):
            self._usage = response_usage(usage)
        for choice in _first_choice(chunk.get("choices")):
            self._add_delta(choice.get("delta"))
            reason = choice.get("finish_reason")
            self._finish_reason = reason if isinstance(reason, str) and reason else self._finish_reason
        return self._take()

    def finish(self) -> bytes:
        """The chat ended properly: every open item is done, and the response with them."""
        self._begin()
        for call in self._calls.unnamed():
            self._open_call(call)
        if not self._items:
            self._say("message", "output_text", "")
        self._status = status_of(self._finish_reason)
        for item in self._items:
            item.close(self._status if item is self._items[-1] else "completed")
        self._emit(f"response.{self._status}", {"response": self.response()})
        return self._take()

    def fail(self, error: GatewayError) -> bytes:
        """The one event that says that nothing more comes: OpenAI's `error`, and this gateway's error body in it."""
        body = error_body(error)
        self._emit("error", {"code": error.code, "message": error.message, "param": error.param, **body})
        return self._take()

    def response(self) -> dict[str, Any]:
        """The response object as far as it has come."""
        return response_object(
            self._body,
            response_id=self._id,
            created=self._created,
            model=self._model,
            status=self._status,
            output=[item.as_json() for item in self._items],
            usage=self._usage,
            finish_reason=self._finish_reason,
        )

    def _begin(self) -> None:
        if self._id:
            return
        self._id = self._new_id("resp")
        self._emit("response.created", {"response": self.response()})
        self._emit("response.in_progress", {"response": self.response()})

    def _add_delta(self, delta: object) -> None:
        if not isinstance(delta, Mapping):
            return
        for names, kind, part_kind in _TEXTS:
            text = next(filter(None, (_text_in(delta.get(name)) for name in names)), "")
            if text:
                self._say(kind, part_kind, text)
        for entry in _mappings(delta.get("tool_calls")):
            call, arguments = self._calls.take(entry)
            if call.item is not None:
                call.item.add(arguments)
                continue
            call.pending += arguments
            if call.name:
                self._open_call(call)

    def _say(self, kind: TextKind, part_kind: PartKind, text: str) -> None:
        if self._text is None or self._text.kind != kind:
            self._close_text()
            self._text = TextItem(kind, self._new_id("msg"), len(self._items), self._emit)
            self._items.append(self._text)
        self._text.add(part_kind, text)

    def _open_call(self, call: Call) -> None:
        self._close_text()
        call_id = self._calls.call_id(call)
        call.item = CallItem(self._new_id("toolcall"), call_id, call.name, len(self._items), self._emit)
        self._items.append(call.item)
        call.item.add(call.pending)

    def _close_text(self) -> None:
        """What is said next is said elsewhere. Calls stay open to the end: their pieces may alternate."""
        if self._text is not None:
            self._text.close("completed")
            self._text = None

    def _emit(self, kind: str, fields: Mapping[str, Any]) -> None:
        payload = {"type": kind, "sequence_number": self._sequence, **fields}
        self._sequence += 1
        self._events.append(sse_event(_json(payload), kind))

    def _take(self) -> bytes:
        taken = b"".join(self._events)
        self._events.clear()
        return taken


# The texts of a delta, in the order in which a model says them. Some servers send reasoning under both of its names.
_TEXTS: tuple[tuple[tuple[str, ...], TextKind, PartKind], ...] = (
    (("reasoning_content", "reasoning"), "reasoning", "reasoning_text"),
    (("content",), "message", "output_text"),
    (("refusal",), "message", "refusal"),
)


def _text_in(value: object) -> str:
    """A text, or the texts of a list of parts, which some servers send as content."""
    if isinstance(value, str):
        return value
    return "".join(part["text"] for part in _mappings(value) if isinstance(part.get("text"), str))


def _json(payload: Mapping[str, Any]) -> bytes:
    try:
        return compact_json(payload)
    except UnicodeEncodeError:  # half of a surrogate pair, from a server that cuts between the two: escaped, as it came
        return json.dumps(payload, separators=(",", ":")).encode()


def _mappings(value: object) -> Iterator[Mapping[str, Any]]:
    return (entry for entry in value if isinstance(entry, Mapping)) if isinstance(value, list) else iter(())


def _first_choice(choices: object) -> Iterator[Mapping[str, Any]]:
    return (choice for choice in _mappings(choices) if choice.get("index", 0) in (0, None))
