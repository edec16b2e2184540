"""A request on the wire: where it goes, and the bytes that ask."""

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import quote, unquote, urlsplit

from appliance.upstream.exchange import UpstreamCall

_PORTS = {"http": 80, "https": 443}
_HOST = re.compile(r"[-A-Za-z0-9._~:%]+")
_LEFT_ALONE = "/?%:@!$&'()*+,;=-._~[]"  # RFC 3986: what may stand in a path or query, escapes included
_FIXED_HEADERS = {
    "Accept": "application/json, text/event-stream",
    "Accept-Encoding": "identity",
    "User-Agent": "appliance",
}


class BadAddress(Exception):
    """A URL that nothing can be sent to; the message continues "<backend class> ..."."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a request goes. `authority`: for the Host header; `authorization`: what the URL's userinfo becomes."""

    scheme: str
    host: str
    port: int
    authority: str
    target: str
    authorization: str | None


@lru_cache(maxsize=256)  # a handful of classes with a handful of paths each; parsing costs 20 us
def parse_address(url: str) -> Address:
    """Take a URL apart. Raises BadAddress."""
    if not url.isprintable():
        raise BadAddress("has an address that is not a URL")
    try:
        parts = urlsplit(url)
        host, port = unquote(parts.hostname or ""), parts.port  # an IPv6 zone is escaped in a URL
        host = host if host.isascii() else host.encode("idna").decode("ascii")
    except ValueError:
        raise BadAddress("has an address that is not a URL") from None
    if parts.scheme not in _PORTS:
        raise BadAddress("has an address that is neither http:// nor https://")
    if _HOST.fullmatch(host) is None:
        raise BadAddress("has an address without a host or port that can be one")
    named = f"[{host}]" if ":" in host else host
    userinfo = parts.netloc.rpartition("@")[0]
    return Address(
        scheme=parts.scheme,
        host=host,
        port=port or _PORTS[parts.scheme],
        authority=named if port in (None, _PORTS[parts.scheme]) else f"{named}:{port}",
        target=quote(parts.path or "/", safe=_LEFT_ALONE)
        + (f"?{quote(parts.query, safe=_LEFT_ALONE)}" if parts.query else ""),
        authorization=_basic(userinfo) if userinfo else None,
    )


def request_head(call: UpstreamCall, address: Address) -> bytes:
    """The request's head in full, its length included. Raises BadAddress for a header that would break it."""
    start = _head_start(call.method, address, tuple(call.headers.items()), keep_alive=call.keep_alive)
    if call.body or call.method not in ("GET", "HEAD"):
        return b"%bContent-Length: %d\r\n\r\n" % (start, len(call.body))
    return start + b"\r\n"


@lru_cache(maxsize=256)  # all but the length is the same for every call of a kind to a class
def _head_start(method: str, address: Address, given: tuple[tuple[str, str], ...], *, keep_alive: bool) -> bytes:
    headers: dict[str, str] = {"Host": address.authority, **_FIXED_HEADERS}
    if address.authorization is not None:
        headers["Authorization"] = address.authorization
    headers.update(given)
    if not keep_alive:
        headers["Connection"] = "close"
    return f"{method} {address.target} HTTP/1.1\r\n{header_lines(headers)}".encode("latin-1")


def header_lines(headers: Mapping[str, str]) -> str:
    """The lines as they are sent. Raises BadAddress for a header that would end its line, or that latin-1 lacks."""
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    if lines.count("\n") != len(headers) or lines.count("\r") != len(headers) or "\0" in lines or not _is_latin(lines):
        raise BadAddress("cannot be sent this request: a header holds a control character")
    return lines


def _is_latin(text: str) -> bool:
    return text.isascii() or all(char < "\u0100" for char in text)


def _basic(userinfo: str) -> str:
    return "Basic " + base64.b64encode(unquote(userinfo).encode()).decode()
