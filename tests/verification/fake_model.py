"""A gateway in memory for the evals: it says what it is told to, and its clock moves only as it is told."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from appliance.verification.evals_asking import Refused, Travel
from appliance.verification.http import Answer, Call, Unreachable

READY = {"ok": True, "ready": True, "backends": {"mock": {"ready": True}, "gpu": {"ready": False}}}


def chunk(**delta: Any) -> bytes:
    return b"data: " + json.dumps({"model": "m", "choices": [{"delta": delta, "finish_reason": None}]}).encode()


def finish(reason: str = "stop") -> bytes:
    return b"data: " + json.dumps({"choices": [{"delta": {}, "finish_reason": reason}]}).encode()


DONE = b"data: [DONE]"


def stream(text: str, *, reason: str = "stop") -> list[bytes | float]:
    """A streamed chat that says this, word by word."""
    words = [chunk(content=word) for word in text.split(" ")]
    spaced = [item for word in words for item in (word, chunk(content=" "))][:-1]
    usage = b'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":7}}'
    return [chunk(role="assistant", content=""), *spaced, finish(reason), usage, b"", DONE]


def whole(text: str, calls: Sequence[Mapping[str, Any]] = ()) -> dict[str, Any]:
    made = [{"function": {"name": call["name"], "arguments": call["arguments"]}} for call in calls]
    message = {"content": text, **({"tool_calls": made} if made else {})}
    return {"model": "m", "choices": [{"message": message, "finish_reason": "stop"}], "usage": {"completion_tokens": 7}}


@dataclass(slots=True)
class FakeModel:
    """Answers of paths, each used once and the last for ever: JSON bodies, or lines of a stream. A number among lines:
    so many seconds pass. `delay_s`: before every whole answer."""

    answers: dict[str, list[Any]]
    delay_s: float = 0.0
    now_s: float = 100.0
    asked: list[Call] = field(default_factory=list)
    gone: bool = False
    ready_status: int = 200
    on_ask: Callable[[int], None] = lambda _count: None

    def travel(self) -> Travel:
        return Travel(self._exchange, self._lines, lambda: self.now_s)

    def _next(self, call: Call) -> Any:
        self.asked.append(call)
        self.on_ask(len(self.asked))
        waiting = self.answers[urlsplit(call.url).path]
        return waiting.pop(0) if len(waiting) > 1 else waiting[0]

    def _exchange(self, call: Call) -> Answer:
        path = urlsplit(call.url).path
        if path in {"/readyz", "/health"}:
            if self.gone:
                raise Unreachable("http://x: connection refused")
            return Answer(self.ready_status, (), json.dumps(READY).encode())
        found = self._next(call)
        if isinstance(found, Exception):
            raise found
        self.now_s += self.delay_s
        return found if isinstance(found, Answer) else Answer(200, (), json.dumps(found).encode())

    def _lines(self, call: Call) -> Iterator[bytes]:
        found = self._next(call)
        if isinstance(found, Answer):
            raise Refused(found)
        if isinstance(found, Exception):
            raise found
        for line in found:
            if isinstance(line, float):
                self.now_s += line
                continue
            yield line
