"""Strict: whether the raw bytes of a request head are beyond doubt. Refuses, never repairs; knows no sockets."""

import re
from collections import Counter
from dataclasses import dataclass

from appliance.protocol.frozen import frozen

# RFC 9110, 5.6.2. Methods are matched in capitals only: what comes later would turn `get` into GET, which is a repair.
_NAME = rb"[-!#$%&'*+.^_`|~0-9a-zA-Z]+"
_METHOD = rb"[-!#$%&'*+.^_`|~0-9A-Z]+"

_REQUEST_LINE = re.compile(rb"(?P<method>%s) (?P<target>[\x21-\x7e]+) HTTP/(?P<version>[0-9]\.[0-9])" % _METHOD)
_FIELD = re.compile(rb"(?P<name>%s):[ \t]*(?P<value>[\t\x20-\x7e\x80-\xff]*)" % _NAME)
_FIRST_BYTES = re.compile(rb"[!-~][ -~]*(?:\r\n|\r?\Z)")
_BROKEN_LINE = re.compile(rb"(?<!\r)\n|\r(?!\n|\Z)|\x00")
# No sign, no list, no leading zero, and inside 63 bits: what every other parser reads as the same number.
_LENGTH = re.compile(rb"0|[1-9][0-9]{0,17}")
_HOST = re.compile(rb"[-._~!$&'()*+;=%:\[\]0-9a-zA-Z]*")

_VERSIONS = frozenset({b"1.0", b"1.1"})
# CONNECT wants a tunnel and TRACE echoes secrets (RFC 9110, 9.3.8); neither has a use here.
_METHODS_NOT_SERVED = frozenset({b"CONNECT", b"TRACE"})
# Two of them, and two parsers may choose differently.
_SINGLE = (b"content-length", b"transfer-encoding", b"host", b"expect", b"content-type")
_UPGRADES = (b"upgrade", b"http2-settings")

_END = b"\r\n\r\n"

# The whole head of nearly every request in one match: 2 us, where taking it apart line by line costs 30.
_PLAIN = re.compile(
    rb"(GET|POST|HEAD|OPTIONS|PUT|PATCH|DELETE) (/[!\"$-~]*) HTTP/1\.1\r\n((?:%s:[\t\x20-\x7e\x80-\xff]*\r\n)*+)\r\n"
    % _NAME
)
# What makes a head worth a closer look: framing by chunks, promises before the body, other protocols.
_NOT_PLAIN = frozenset({b"transfer-encoding", b"expect", *_UPGRADES})
_PLAIN_CONNECTIONS = {b"keep-alive": False, b"close": True}


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a head is refused: HTTP status, a code for programs, and what to change."""

    status: int
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Head:
    """A parsed head: names in lower case, values without the white space around them."""

    method: bytes
    target: bytes
    version: bytes
    fields: tuple[tuple[bytes, bytes], ...]


@frozen
class PlainHead:
    """The head of an everyday request: HTTP/1.1, no field twice, its body of `length` bytes from `end` on.

    `last`: the client wants no further answer on this connection.
    """

    method: bytes
    target: bytes
    fields: list[tuple[bytes, bytes]]
    length: int
    end: int
    last: bool


def plain_head(raw: bytes, *, max_bytes: int = 16_384, max_fields: int = 100) -> PlainHead | None:
    """Take apart a head that is complete and beyond every doubt; None for all that wants `check_head` or more bytes.

    What it accepts, `parse_head` accepts and reads in the same way; it is here because it is fifteen times as fast.
    """
    match = _PLAIN.match(raw)
    if match is None or match.end() > max_bytes:
        return None
    method, target, lines = match.groups()
    fields = []
    for line in lines.split(b"\r\n")[:-1]:
        name, _, value = line.partition(b":")
        fields.append((name.lower(), value.strip(b" \t")))
    named = dict(fields)
    if len(named) != len(fields) or len(fields) > max_fields or not _NOT_PLAIN.isdisjoint(named):
        return None
    last = _PLAIN_CONNECTIONS.get(named.get(b"connection", b"keep-alive").lower())
    length = named.get(b"content-length", b"0")
    host = named.get(b"host")
    if last is None or host is None or _HOST.fullmatch(host) is None or _LENGTH.fullmatch(length) is None:
        return None
    return PlainHead(method, target, fields, int(length), match.end(), last)


def check_head(raw: bytes, *, max_bytes: int = 16_384, max_fields: int = 100) -> Fault | None:
    """Find what is wrong with a head, as early as its bytes allow.

    `raw` starts at a request's first byte; it may end inside the head or go on behind it.
    """
    end = raw.find(_END)
    length = len(raw) if end < 0 else end + len(_END)
    if length > max_bytes:
        return Fault(
            431, "header_too_large", f"The request head exceeds {max_bytes} bytes; send fewer or shorter headers."
        )
    head = raw if end < 0 else raw[: end + 2]
    if fault := _check_bytes(head):
        return fault
    if end < 0:
        return None
    parsed = parse_head(head, max_fields=max_fields)
    return parsed if isinstance(parsed, Fault) else None


def parse_head(head: bytes, *, max_fields: int = 100) -> Head | Fault:
    """Parse a complete head: lines that each end in CRLF, without the empty one."""
    first, *lines = head[:-2].split(b"\r\n")
    line = _REQUEST_LINE.fullmatch(first)
    if line is None:
        return _bad("bad_request_line", "The request line must be `METHOD /path HTTP/1.1` with single spaces.")
    if fault := _check_request_line(line["method"], line["target"], line["version"]):
        return fault
    if len(lines) > max_fields:
        return Fault(431, "too_many_headers", f"The request has more than {max_fields} header fields.")
    fields = []
    for text in lines:
        field = _FIELD.fullmatch(text)
        if field is None:
            return _bad("bad_header", _explain_field(text))
        fields.append((field["name"].lower(), field["value"].rstrip(b" \t")))
    parsed = Head(line["method"], line["target"], line["version"], tuple(fields))
    return _check_fields(parsed) or parsed


def _bad(code: str, message: str) -> Fault:
    return Fault(400, code, message)


def _check_bytes(head: bytes) -> Fault | None:
    """Judge bytes that no later ones can make right, so that garbage is not waited for."""
    if not head:
        return None
    if head[0] == 0x16:
        return _bad("tls_on_plain_port", "This port speaks plain HTTP; use http:// instead of https://.")
    if _FIRST_BYTES.match(head) is None:
        return _bad(
            "bad_request_line", "The request line holds a byte outside printable ASCII, or starts with a space."
        )
    if _BROKEN_LINE.search(head) is not None:
        return _bad("bad_line_end", "Header lines end in CRLF; a lone CR, a lone LF or a NUL is refused.")
    return None


def _check_request_line(method: bytes, target: bytes, version: bytes) -> Fault | None:
    if version not in _VERSIONS:
        return Fault(505, "http_version_not_supported", "Only HTTP/1.1 and HTTP/1.0 are spoken here.")
    if method in _METHODS_NOT_SERVED:
        return Fault(405, "method_not_allowed", "CONNECT and TRACE are not served here.")
    if not target.startswith(b"/"):
        return _bad("bad_target", "The request target must be a path that starts with `/`.")
    if b"#" in target:
        return _bad("bad_target", "The request target must not carry a fragment (`#`).")
    return None


def _explain_field(text: bytes) -> str:
    if text[:1] in (b" ", b"\t"):
        return "A header value must not be folded over several lines."
    name, colon, _ = text.partition(b":")
    if not colon:
        return "A header line needs a name, a colon and a value."
    if re.fullmatch(_NAME, name) is None:
        return "A header name must be a token, with no space before the colon."
    return "A header value holds a control character."


def _check_fields(head: Head) -> Fault | None:
    counts = Counter(name for name, _ in head.fields)
    for name in _SINGLE:
        if counts[name] > 1:
            return _bad("duplicate_header", f"The header `{name.decode()}` may appear once.")
    fields = dict(head.fields)
    return _check_host(head.version, fields) or _check_framing(head.version, fields) or _check_upgrade(head.fields)


def _check_host(version: bytes, fields: dict[bytes, bytes]) -> Fault | None:
    host = fields.get(b"host")
    if host is None:
        return None if version == b"1.0" else _bad("missing_host", "HTTP/1.1 requests need a Host header.")
    if _HOST.fullmatch(host) is None:
        return _bad("bad_host", "The Host header must be a host name or address, and a port.")
    return None


def _check_framing(version: bytes, fields: dict[bytes, bytes]) -> Fault | None:
    length, coding = fields.get(b"content-length"), fields.get(b"transfer-encoding")
    if length is not None and coding is not None:
        return _bad("conflicting_framing", "Send either Content-Length or Transfer-Encoding, not both.")
    if coding is not None and version == b"1.0":
        return _bad("conflicting_framing", "Transfer-Encoding does not exist in HTTP/1.0.")
    if coding is not None and coding.lower() != b"chunked":
        return _bad("bad_transfer_encoding", "The only Transfer-Encoding understood is `chunked`.")
    if length is not None and _LENGTH.fullmatch(length) is None:
        return _bad("bad_content_length", "Content-Length must be one plain decimal number.")
    expect = fields.get(b"expect")
    if expect is not None and expect.lower() != b"100-continue":
        return Fault(417, "expectation_failed", "The only Expect understood is `100-continue`.")
    return None


def _check_upgrade(fields: tuple[tuple[bytes, bytes], ...]) -> Fault | None:
    for name, value in fields:
        wanted = name in _UPGRADES
        if name == b"connection":
            wanted = b"upgrade" in {token.strip(b" \t") for token in value.lower().split(b",")}
        if wanted:
            return _bad("upgrade_not_supported", "This server speaks HTTP/1.1 only: no Upgrade, WebSocket or h2c.")
    return None
