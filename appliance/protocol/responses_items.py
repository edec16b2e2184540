"""Output items of a response while they are being said: texts and function calls, and the events they cause."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from appliance.protocol.responses_object import Status

Emit = Callable[[str, dict[str, Any]], None]
"""Takes an event's type and its fields; `type` and `sequence_number` are added by whoever emits."""

TextKind = Literal["message", "reasoning"]
PartKind = Literal["output_text", "refusal", "reasoning_text"]

_EVENTS: Mapping[PartKind, str] = {
    "output_text": "response.output_text",
    "refusal": "response.refusal",
    "reasoning_text": "response.reasoning_text",
}


@dataclass(frozen=True, slots=True)
class _Part:
    kind: PartKind
    pieces: list[str]

    def as_json(self) -> dict[str, Any]:
        text = "".join(self.pieces)
        if self.kind == "refusal":
            return {"type": "refusal", "refusal": text}
        if self.kind == "reasoning_text":
            return {"type": "reasoning_text", "text": text}
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


class TextItem:
    """A message or a reasoning: parts of text, the last of which is open."""

    def __init__(self, kind: TextKind, item_id: str, index: int, emit: Emit) -> None:
        self.kind = kind
        self.index = index
        self._id = item_id
        self._emit = emit
        self._parts: list[_Part] = []
        self._is_open = True
        self._status: Status = "in_progress"
        emit("response.output_item.added", {"output_index": index, "item": self.as_json()})

    def add(self, part_kind: PartKind, text: str) -> None:
        """Say more. A text of another kind than the last one opens a part of its own."""
        if not self._parts or self._parts[-1].kind != part_kind:
            self._close_part()
            self._parts.append(_Part(part_kind, []))
            self._emit("response.content_part.added", {**self._place(), "part": self._parts[-1].as_json()})
        if not text:
            return
        self._parts[-1].pieces.append(text)
        extra: dict[str, Any] = {"logprobs": []} if part_kind == "output_text" else {}
        self._emit(f"{_EVENTS[part_kind]}.delta", {**self._place(), "delta": text, **extra})

    def close(self, status: Status) -> None:
        """No more will be said. Does nothing the second time."""
        if not self._is_open:
            return
        self._is_open = False
        self._close_part()
        self._status = status
        self._emit("response.output_item.done", {"output_index": self.index, "item": self.as_json()})

    def as_json(self) -> dict[str, Any]:
        content = [part.as_json() for part in self._parts]
        item = {"id": self._id, "type": self.kind, "status": self._status, "content": content}
        return {**item, "summary": []} if self.kind == "reasoning" else {**item, "role": "assistant"}

    def _close_part(self) -> None:
        if not self._parts:
            return
        part = self._parts[-1].as_json()
        said = {name: value for name, value in part.items() if name in ("text", "refusal", "logprobs")}
        self._emit(f"{_EVENTS[self._parts[-1].kind]}.done", {**self._place(), **said})
        self._emit("response.content_part.done", {**self._place(), "part": part})

    def _place(self) -> dict[str, Any]:
        return {"item_id": self._id, "output_index": self.index, "content_index": len(self._parts) - 1}


class CallItem:
    """A function call: a name, and arguments in pieces."""

    def __init__(self, item_id: str, call_id: str, name: str, index: int, emit: Emit) -> None:
        self.index = index
        self._id = item_id
        self._call_id = call_id
        self._name = name
        self._emit = emit
        self._pieces: list[str] = []
        self._status: Status = "in_progress"
        emit("response.output_item.added", {"output_index": index, "item": self.as_json()})

    def add(self, arguments: str) -> None:
        if arguments:
            self._pieces.append(arguments)
            self._emit("response.function_call_arguments.delta", {**self._place(), "delta": arguments})

    def close(self, status: Status) -> None:
        self._status = status
        item = self.as_json()
        said = {"arguments": item["arguments"], "name": self._name}
        self._emit("response.function_call_arguments.done", {**self._place(), **said})
        self._emit("response.output_item.done", {"output_index": self.index, "item": item})

    def as_json(self) -> dict[str, Any]:
        return {
            "id": self._id,
            "type": "function_call",
            "status": self._status,
            "call_id": self._call_id,
            "name": self._name,
            "arguments": "".join(self._pieces),
        }

    def _place(self) -> dict[str, Any]:
        return {"item_id": self._id, "output_index": self.index}
