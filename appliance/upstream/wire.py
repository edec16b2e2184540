"""A response on the wire: HTTP/1.1 bytes in; a head, pieces of body and one true end out. No I/O.

Parsing is llhttp's, with every leniency off: a length with chunks, two lengths, bare line feeds and folded headers are
refused. What it does not bound (lines, fields, framing without a body) is bounded here.
"""

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from appliance.protocol.frozen import frozen

MAX_HEADER_FIELDS = 100  # as our own listener; trailers count
MAX_HEADER_BYTES = 32 * 1024
MAX_FRAMING_BYTES = 64 * 1024  # received in a row without a byte of body: heads, chunk extensions, trailers

INVALID = "answered something that is not valid HTTP"
CUT_SHORT = "closed the connection before its answer was complete"
_TOO_MANY = "answered with too many headers"


@frozen
class ResponseHead:
    """The head of the answer. `length`: what Content-Length says. `until_close`: the body ends with the connection.
    `location`: where a redirect points."""

    status: int
    content_type: str
    retry_after: str | None
    length: int | None
    until_close: bool
    location: str | None = None


class ResponseReader:
    """One response, fed as it comes, cut anywhere. Never raises.

    After each feed: `take()` gives the body so far; then `problem` says, in words that follow the backend's name, why
    no more will come; `ended` says that the body is complete. 1xx responses are skipped; redirects (unless they are
    wanted), compression and protocol switches are problems. What follows a complete response is ignored. `reusable`: it
    is complete, nothing
    followed it, and its connection may carry another request.
    """

    def __init__(self, *, redirects: bool = False) -> None:
        self._redirects = redirects
        self.head: ResponseHead | None = None
        self.problem: str | None = None
        self.ended = False
        self.reusable = False
        self._parser: HttpResponseParser | None = HttpResponseParser(self)
        self._headers: dict[bytes, bytes] = {}
        self._fields = 0
        self._field_bytes = 0
        self._framing_bytes = 0
        self._persists = False
        self._pieces: list[bytes] = []

    def feed(self, data: bytes | bytearray) -> None:
        """Parse what one read gave."""
        if self._parser is None or self.problem is not None or self.ended:
            return
        had = len(self._pieces)
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade):
            self.reusable = False
            self._refuse(INVALID)
        self._framing_bytes = 0 if len(self._pieces) > had else self._framing_bytes + len(data)
        if self._framing_bytes > MAX_FRAMING_BYTES:
            self._refuse(_TOO_MANY if self.head is None else INVALID)

    def feed_eof(self) -> None:
        """The backend closed its side: the end of a body that says so, a problem for every other."""
        if self.head is not None and self.head.until_close:
            self.ended = True
        self._refuse(CUT_SHORT)

    def take(self) -> bytes:
        """The body that came since the last call, in one piece."""
        if not self._pieces:
            return b""
        body = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        return body

    def discard(self) -> None:
        """Let go of the parser, which holds on to this object: a cycle only the garbage collector would find."""
        self._parser = None

    def _refuse(self, problem: str) -> None:
        if self.problem is None and not self.ended:
            self.problem = problem

    # What llhttp calls while it is fed. Nothing is raised in here: it would come back wrapped.

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields += 1
        self._field_bytes += len(name) + len(value)
        if self._fields > MAX_HEADER_FIELDS or self._field_bytes > MAX_HEADER_BYTES:
            self._refuse(_TOO_MANY)
        elif self.head is None:
            name = name.lower()
            earlier = self._headers.get(name)
            self._headers[name] = value if earlier is None else earlier + b", " + value

    def on_headers_complete(self) -> None:
        if self._parser is None or self.head is not None or self.problem is not None:
            return
        status = self._parser.get_status_code()
        if 100 <= status < 200 and status != 101:
            self._headers.clear()
            return
        problem = unacceptable(status, self._headers, redirects=self._redirects)
        if problem is not None:
            self._refuse(problem)
            return
        self.head = _head(status, self._headers)
        self._persists = (
            not self.head.until_close
            and self._parser.get_http_version() == "1.1"
            and not (b"connection" in self._headers and b"close" in self._headers[b"connection"].lower())
        )

    def on_message_begin(self) -> None:
        self.reusable = False

    def on_body(self, data: bytes) -> None:
        if self.problem is None and not self.ended:
            self._pieces.append(data)

    def on_message_complete(self) -> None:
        if self.head is not None and self.problem is None and not self.ended:
            self.ended = True
            self.reusable = self._persists


def unacceptable(status: int, headers: dict[bytes, bytes], *, redirects: bool) -> str | None:
    """Say what is wrong with a head, if anything; names in lower case. `redirects`: whether they are wanted."""
    if b"content-encoding" in headers and headers[b"content-encoding"].strip().lower() not in (b"", b"identity"):
        return "compressed its answer, which it was asked not to do"
    if b"transfer-encoding" in headers and headers[b"transfer-encoding"].strip().lower() != b"chunked":
        return "answered in a transfer encoding other than chunked"
    if 300 <= status < 400 and not redirects:
        return f"answered {status}, a redirect: put its real address into base_url"
    if not 200 <= status < 600:
        return f"answered {status}, which was not asked for"
    return None


def _head(status: int, headers: dict[bytes, bytes]) -> ResponseHead:
    length = headers.get(b"content-length")
    return ResponseHead(
        status=status,
        content_type=_text(headers, b"content-type") or "",
        retry_after=_text(headers, b"retry-after"),
        length=None if length is None else int(length),  # llhttp has checked that it is one number of 64 bits
        until_close=length is None and b"transfer-encoding" not in headers,
        location=_text(headers, b"location"),
    )


def _text(headers: dict[bytes, bytes], name: bytes) -> str | None:
    value = headers.get(name)
    return None if value is None else value.decode("latin-1")
