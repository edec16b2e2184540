"""h11 made strict: every head of a connection is checked as raw bytes first, and every chunked body's end. No sockets."""

import re

import h11

from appliance.server.strict import Fault, check_head

_LONE_LF = re.compile(rb"(?<!\r)\n")


class StrictConnection(h11.Connection):
    """A server's h11 connection that refuses what h11 repairs.

    h11 by itself lets pass: Content-Length beside Transfer-Encoding, Transfer-Encoding on HTTP/1.0, `HTTP/2.0`, folded
    lines, lone LFs, control characters in values, doubled Authorization, heads over the limit that come in one piece.
    """

    def __init__(self, *, max_head_bytes: int, max_header_fields: int) -> None:
        super().__init__(h11.SERVER, max_incomplete_event_size=max_head_bytes)
        self._max_head_bytes = max_head_bytes
        self._max_header_fields = max_header_fields
        self._chunked = False
        self.fault: Fault | None = None

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        """As h11's; `fault` tells what a RemoteProtocolError was about."""
        in_head = self.their_state is h11.IDLE
        if in_head:
            self._check_head()
        before = self.trailing_data[0] if self._chunked else b""
        try:
            event = super().next_event()
        except h11.RemoteProtocolError as error:
            status = 431 if in_head and error.error_status_hint == 431 else 400
            self.fault = Fault(status, "bad_request", f"The request could not be parsed: {_plain(error)}.")
            raise
        if isinstance(event, h11.Request):
            self._chunked = any(name == b"transfer-encoding" for name, _ in event.headers)
        if isinstance(event, h11.EndOfMessage) and self._chunked:
            self._check_end(event, before[: len(before) - len(self.trailing_data[0])])
        return event

    @property
    def head_begun(self) -> bool:
        """Whether a part of the next request's head has come."""
        return self.their_state is h11.IDLE and bool(self.trailing_data[0])

    def _check_head(self) -> None:
        fault = check_head(self.trailing_data[0], max_bytes=self._max_head_bytes, max_fields=self._max_header_fields)
        if fault is not None:
            self._refuse(fault)

    def _check_end(self, event: h11.EndOfMessage, consumed: bytes) -> None:
        self._chunked = False
        # h11 takes `0 CRLF LF` for the end of a body; a parser that does not would see another request begin.
        if event.headers or _LONE_LF.search(consumed):
            self._refuse(Fault(400, "bad_chunks", "A chunked body must end in `0 CRLF CRLF`, without trailers."))

    def _refuse(self, fault: Fault) -> None:
        self.fault = fault
        raise h11.RemoteProtocolError(fault.message, error_status_hint=fault.status)


def _plain(error: h11.RemoteProtocolError) -> str:
    """h11's words without the client's bytes, which it appends after a colon."""
    return str(error).partition(":")[0]
