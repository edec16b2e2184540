"""Answers on the wire: an application's messages in, HTTP/1.1 bytes out. Knows no sockets."""

import re
import time
from collections.abc import Iterable, Sequence
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus

_STATUS_LINES = {status.value: b"HTTP/1.1 %d %b\r\n" % (status, status.phrase.encode()) for status in HTTPStatus}
_BODILESS = frozenset({204, 304})  # RFC 9110, 6.4.1

# Names are tokens, values printable (RFC 9110, 5.5). One match over all lines; the count of the line ends tells whether
# a value brought lines of its own.
_LINES = re.compile(rb"(?:[-!#$%&'*+.^_`|~0-9a-zA-Z]+: [\t\x20-\x7e\x80-\xff]*\r\n)*+")
_CLOSE = b"connection: close\r\n"
_CHUNKED = b"transfer-encoding: chunked\r\n"
_LAST_CHUNK = b"0\r\n\r\n"
_ONE_SEND_BYTES = 65_536  # to put a head before more than that is a copy that costs more than a send of its own


class BadAnswer(Exception):
    """The application's answer is not one that HTTP can carry."""


class AnswerFraming:
    """The framing of one answer to an HTTP/1.1 request: by its Content-Length, else by chunks.

    `head_only`: the request was HEAD. `last`: no other answer follows on this connection; the head says so.
    """

    def __init__(self, *, head_only: bool) -> None:
        self._bodiless = head_only
        self._left: int | None = None
        self._head = b""
        self.last = False

    @property
    def waits_for_body(self) -> bool:
        """Whether the head goes out with the body that follows, in one packet: its length is known."""
        return self._left is not None

    def begin(self, status: int, headers: Iterable[tuple[bytes, bytes]], *, last: bool) -> None:
        """Take the head. Raises BadAnswer for a header that would break it."""
        self._bodiless = self._bodiless or status in _BODILESS
        self.last = last
        lines = []
        for name, value in headers:
            known = name.lower()
            if known == b"content-length":
                self._left = _length(value)
            elif known == b"connection":
                self.last = self.last or b"close" in value.lower()
                continue
            elif known == b"transfer-encoding":
                continue  # ours to say
            lines.append(b"%b: %b\r\n" % (name, value))
        text = _checked(lines)
        if self._left is None and status not in _BODILESS:
            text += _CHUNKED
        if self.last:
            text += _CLOSE
        self._head = b"%b%b%b\r\n" % (_status_line(status), text, _date_line(int(time.time())))

    def whole(
        self, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes, *, last: bool
    ) -> tuple[bytes, bytes]:
        """An answer whose headers say its length and nothing else of its framing: its first send, and what is left
        for a second, if it is long. Raises BadAnswer."""
        self.last = last
        text = _checked([b"%b: %b\r\n" % header for header in headers])
        close = _CLOSE if last else b""
        head = b"%b%b%b%b\r\n" % (_status_line(status), text, close, _date_line(int(time.time())))
        if self._bodiless or status in _BODILESS:
            return head, b""
        return (head + body, b"") if len(body) <= _ONE_SEND_BYTES else (head, body)

    def take_head(self) -> bytes:
        """The head, if it has not been taken yet."""
        head, self._head = self._head, b""
        return head

    def frame(self, body: bytes, *, more: bool) -> bytes:
        """A piece of body, behind the head if that is still here. Raises BadAnswer for more than was announced."""
        if self._bodiless:
            return self.take_head()
        if self._left is None:
            chunk = b"%x\r\n%b\r\n" % (len(body), body) if body else b""
            return self.take_head() + (chunk if more else chunk + _LAST_CHUNK)
        self._left -= len(body)
        if self._left < 0:
            raise BadAnswer("the answer is longer than its content-length")
        return self.take_head() + body

    def check_end(self) -> None:
        """Raises BadAnswer for less than was announced."""
        if self._left and not self._bodiless:
            raise BadAnswer("the answer is shorter than its content-length")


def _checked(lines: Sequence[bytes]) -> bytes:
    text = b"".join(lines)
    if text.count(b"\n") != len(lines) or _LINES.fullmatch(text) is None:
        raise BadAnswer("a header of the answer holds what no header may hold")
    return text


def _length(value: bytes) -> int:
    if not value.isdigit():
        raise BadAnswer("the content-length of the answer is no number")
    return int(value)


def _status_line(status: int) -> bytes:
    return _STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status


@lru_cache(1)
def _date_line(second: int) -> bytes:
    return b"date: %b\r\n" % formatdate(second, usegmt=True).encode("ascii")
