"""Streams of Ollama: lines of JSON in, OpenAI's server-sent events out. Pure."""

from collections.abc import Mapping
from typing import Any, Protocol

from appliance.backends.chat_shapes import (
    Head,
    chat_event,
    chat_usage_event,
    text_event,
    text_usage_event,
    tool_call_delta,
)
from appliance.backends.ollama_answers import (
    calls_of,
    finish_reason,
    message_of,
    parse_line,
    text_in,
    tokens_in,
    unusable,
)
from appliance.protocol.errors import UpstreamFailed
from appliance.protocol.ids import NewId
from appliance.protocol.sse import DONE

MAX_LINE_BYTES = 1 << 20  # a line is a token; one with a whole file in a tool call's arguments has some 100 KiB


class LineTooLong(Exception):
    """A line is longer than this gateway keeps in memory."""


class LineReader:
    """Cuts bytes into lines, however they are split into reads; empty lines are left out."""

    def __init__(self, max_line_bytes: int = MAX_LINE_BYTES) -> None:
        self._max_line_bytes = max_line_bytes
        self._pending = bytearray()

    @property
    def rest(self) -> bytes:
        """What has come of a line that is not complete."""
        return bytes(self._pending)

    def feed(self, data: bytes) -> list[bytes]:
        """Raises LineTooLong; lines that are complete before that one are given first."""
        if len(self._pending) > self._max_line_bytes:
            raise LineTooLong
        *ended, rest = data.split(b"\n")
        if not ended:
            self._pending += rest
            self._refuse_overlong([])
            return []
        ended[0] = bytes(self._pending) + ended[0]
        self._pending[:] = rest
        lines = []
        for line in ended:
            if len(line) > self._max_line_bytes:
                self._pending[:] = line
                break
            if line.strip():
                lines.append(line)
        self._refuse_overlong(lines)
        return lines

    def _refuse_overlong(self, lines: list[bytes]) -> None:
        if not lines and len(self._pending) > self._max_line_bytes:
            raise LineTooLong


class Translator(Protocol):
    """The events of one line of Ollama's. Raises UpstreamFailed for a line that is none."""

    def events(self, said: Mapping[str, Any]) -> bytes: ...


class ChatTranslator:
    def __init__(self, head: Head, new_id: NewId, *, include_usage: bool, upstream: str) -> None:
        self._head = head
        self._new_id = new_id
        self._include_usage = include_usage
        self._upstream = upstream
        self._begun = False
        self._calls = 0

    def events(self, said: Mapping[str, Any]) -> bytes:
        """The last line may be without a message; it often has one without content."""
        done = said.get("done") is True
        message = {} if done and said.get("message") is None else message_of(said, upstream=self._upstream)
        deltas = [] if self._begun else [{"role": "assistant", "content": ""}]
        self._begun = True
        events = b"".join(chat_event(self._head, delta) for delta in deltas + self._deltas(message))
        return events + self._end(said) if done else events

    def _deltas(self, message: Mapping[str, Any]) -> list[dict[str, Any]]:
        thinking = text_in(message, "thinking", upstream=self._upstream)
        content = text_in(message, "content", upstream=self._upstream)
        deltas: list[dict[str, Any]] = []
        if thinking:
            deltas.append({"reasoning_content": thinking})
        if content:
            deltas.append({"content": content})
        for call in calls_of(message, self._new_id, upstream=self._upstream):
            deltas.append(tool_call_delta(self._calls, call))
            self._calls += 1
        return deltas

    def _end(self, said: Mapping[str, Any]) -> bytes:
        usage = chat_usage_event(self._head, tokens_in(said)) if self._include_usage else b""
        return chat_event(self._head, {}, finish_reason(said, called=bool(self._calls))) + usage + DONE


class TextTranslator:
    def __init__(self, head: Head, *, include_usage: bool, upstream: str) -> None:
        self._head = head
        self._include_usage = include_usage
        self._upstream = upstream

    def events(self, said: Mapping[str, Any]) -> bytes:
        text = text_in(said, "response", upstream=self._upstream)
        if said.get("done") is not True:
            return text_event(self._head, text) if text else b""
        usage = text_usage_event(self._head, tokens_in(said)) if self._include_usage else b""
        return text_event(self._head, text, finish_reason(said, called=False)) + usage + DONE


class EventStream:
    """All of a stream, read by read. `ended`: the last line has come, with everything that ends the answer."""

    def __init__(self, translator: Translator, *, upstream: str) -> None:
        self.ended = False
        self._translator = translator
        self._upstream = upstream
        self._lines = LineReader()
        self._failure: UpstreamFailed | None = None

    def feed(self, data: bytes) -> bytes:
        """The events of the lines that `data` completes, in one piece; a failure among them is raised after them."""
        self.raise_failure()
        events: list[bytes] = []
        try:
            for line in self._lines.feed(data):
                self._read(line, events)
        except LineTooLong:
            self._failure = unusable(self._upstream, f"a line of more than {MAX_LINE_BYTES} bytes")
        except UpstreamFailed as error:
            self._failure = error
        if not events:
            self.raise_failure()
        return b"".join(events)

    def raise_failure(self) -> None:
        """Raise what was found wrong after the events that were given last: nothing more need be read for it."""
        if self._failure is not None:
            raise self._failure

    def finish(self) -> bytes:
        """The connection has ended: what is left is a last line without its line break, or there is no end."""
        events = self.feed(b"\n") if self._lines.rest.strip() else b""
        self.raise_failure()
        if not self.ended:
            raise UpstreamFailed(
                f"{self._upstream} ended its stream before the answer was complete.", upstream=self._upstream
            )
        return events

    def _read(self, line: bytes, events: list[bytes]) -> None:
        if self.ended:
            return
        said = parse_line(line, upstream=self._upstream)
        events.append(self._translator.events(said))
        self.ended = said.get("done") is True
