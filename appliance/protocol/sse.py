"""Server-sent events: a reader that cuts a stream into whole events, unchanged, and what writes one.

Format: WHATWG HTML, 9.2 "Server-sent events". Lines end in LF, CRLF or CR; a blank line ends an event.
"""

import re

MAX_EVENT_BYTES = 1 << 20  # a chunk of a language model is some hundred bytes; a whole response object some ten KiB

PING = b": ping\n\n"
DONE = b"data: [DONE]\n\n"

_BOM = b"\xef\xbb\xbf"

# Where an event ends. After LF CR one more byte is awaited: an LF would belong to the same line end. CR CR does not
# wait for one, so that the events of a stream that uses CR alone are never late by one.
_END = re.compile(rb"\r\r|\n\n|\n\r\n|\n\r(?=[^\n])")
_LONGEST_UNDECIDED = 2  # the LF CR above


class SseTooLong(Exception):
    """An event is longer than this gateway keeps in memory."""

    def __init__(self, max_event_bytes: int) -> None:
        super().__init__(f"a server-sent event is longer than {max_event_bytes} bytes")
        self.max_event_bytes = max_event_bytes


class SseReader:
    """Cuts a stream of bytes into events: however it is split into reads, the events are the same.

    An event is its bytes as they came, its blank line included; comments are events too. A blank line that ends
    nothing leads the next event. A byte order mark at the start of the stream is dropped.
    """

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._max_event_bytes = max_event_bytes
        self._pending = bytearray()
        self._at_start = True
        self._lf_alone = True

    def __repr__(self) -> str:
        return f"<SseReader pending={len(self._pending)}>"

    @property
    def rest(self) -> bytes:
        """What has come of an event that is not complete. At the end of a stream: what it was broken off in."""
        return bytes(self._pending)

    def feed(self, data: bytes) -> list[bytes]:
        """The events that are complete with `data`. Raises SseTooLong once every event before that one was given."""
        if self._at_start:
            data = self._without_mark(data)
        if self._lf_alone and b"\r" in data:
            self._lf_alone = False
        scan_from = 0
        if self._pending:
            scan_from = max(len(self._pending) - _LONGEST_UNDECIDED, 0)
            self._pending += data
            if not self._end_of_event(self._pending, scan_from):  # small reads of a long event copy nothing
                self._refuse_overlong()
                return []
            data = bytes(self._pending)
            self._pending.clear()
        events = self._cut(data, scan_from)
        if not events:
            self._refuse_overlong()
        return events

    def _cut(self, data: bytes, scan_from: int) -> list[bytes]:
        """Every whole event of `data`; the rest, which may begin with an overlong one, is kept."""
        events: list[bytes] = []
        start = 0
        while end := self._end_of_event(data, scan_from):
            if end - start > self._max_event_bytes:
                break
            events.append(data[start:end])
            start = scan_from = end
        self._pending += data[start:]
        return events

    def _end_of_event(self, data: bytes | bytearray, start: int) -> int:
        """The position after the first end of an event at or after `start`, 0 if there is none."""
        if self._lf_alone:
            found = data.find(b"\n\n", start)
            return found + 2 if found >= 0 else 0
        match = _END.search(data, start)
        return match.end() if match else 0

    def _refuse_overlong(self) -> None:
        if len(self._pending) > self._max_event_bytes:
            raise SseTooLong(self._max_event_bytes)

    def _without_mark(self, data: bytes) -> bytes:
        start = bytes(self._pending) + data
        if len(start) < len(_BOM) and _BOM.startswith(start):
            return data
        self._at_start = False
        self._pending.clear()
        return start.removeprefix(_BOM)


def data_of(event: bytes) -> bytes | None:
    """The event's data, its lines joined by LF; None for an event without any, such as a comment."""
    if event.startswith(b"data: ") and event.find(b"\n") == len(event) - 2 and b"\r" not in event:
        return event[6:-2]
    lines = [_value(line) for line in event.splitlines() if line == b"data" or line.startswith(b"data:")]
    return b"\n".join(lines) if lines else None


def _value(line: bytes) -> bytes:
    return line[len(b"data:") :].removeprefix(b" ")


def is_done(event: bytes) -> bool:
    """Say whether this is the event by which OpenAI's streams end."""
    return event == DONE or (b"[DONE]" in event and (data_of(event) or b"").strip() == b"[DONE]")


def sse_event(data: bytes | str, event: str | None = None) -> bytes:
    """Write one event. Data of several lines becomes several `data:` lines, which a reader joins again."""
    payload = data.encode() if isinstance(data, str) else data
    if b"\n" in payload or b"\r" in payload:
        payload = b"\ndata: ".join(re.split(rb"\r\n|\r|\n", payload))
    name = f"event: {event}\n".encode() if event is not None else b""
    return b"%bdata: %b\n\n" % (name, payload)
