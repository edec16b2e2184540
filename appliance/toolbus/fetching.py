"""Fetching: what the two fetch tools share. A URL through the guard, one bounded exchange, and its answer as fields."""

import base64
import codecs
import re
import ssl
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import trio

from appliance.toolbus.base import Arguments, Outcome, Schema, ToolEnvironment, ToolFailed
from appliance.toolbus.urlguard import MAX_URL_CHARS, Admitted, UrlGuard
from appliance.upstream.pinned import PinnedAnswer, PinnedFailed, PinnedRequest, exchange_pinned
from appliance.upstream.tls import fetch_tls_context

MAX_HEADERS = 32
MAX_HEADER_NAME_CHARS = 64
MAX_HEADER_VALUE_CHARS = 2048
MAX_SHOWN_CHARS = 2048  # of a header that the answer repeats

PARAMETERS: Schema = {
    "type": "object",
    "properties": {
        "url": {
            "type": "string",
            "minLength": 1,
            "maxLength": MAX_URL_CHARS,
            "description": "http:// or https:// URL, percent-encoded, without user name and password",
        },
        "method": {"type": "string", "enum": ["GET", "HEAD", "OPTIONS"], "default": "GET"},
        "headers": {
            "type": "object",
            "maxProperties": MAX_HEADERS,
            "propertyNames": {
                "maxLength": MAX_HEADER_NAME_CHARS,
                "pattern": "^[!#$%&'*+.^_`|~0-9A-Za-z-]+$",
            },
            "additionalProperties": {"type": "string", "maxLength": MAX_HEADER_VALUE_CHARS},
            "description": "further request headers; those of the connection, of framing and of proxies are refused",
        },
    },
    "required": ["url"],
    "additionalProperties": False,
}

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110; `$` in a schema's pattern lets a line feed pass
_VALUE = re.compile(r"[ -~\t]*")
# What frames the message or belongs to the connection (RFC 9110, 7.6.1), and what a proxy says of its client, which
# services on a loopback or a LAN like to believe.
_REFUSED_HEADERS = frozenset({
    "host", "connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "content-length", "expect",
    "http2-settings", "accept-encoding", "forwarded", "via", "x-real-ip", "true-client-ip", "cf-connecting-ip",
})  # fmt: skip
_REFUSED_PREFIXES = ("proxy-", "x-forwarded-")

_CHARSET = re.compile(r";\s*charset\s*=\s*\"?([\w.:-]{1,40})", re.IGNORECASE)
# Those that the web uses (WHATWG Encoding). Python has others, whose decoding takes the square of the length, and it
# remembers every name that it was ever asked for: no other name gets as far as that.
_CHARSETS = frozenset({
    "utf-8", "utf8", "us-ascii", "ascii", "latin1", "utf-16", "utf-16le", "utf-16be", "big5", "euc-jp", "euc-kr",
    "gb18030", "gb2312", "gbk", "iso-2022-jp", "shift-jis", "koi8-r", "koi8-u", "macintosh",
    *(f"windows-{number}" for number in range(1250, 1259)),
    *(f"iso-8859-{part}" for part in range(1, 17) if part != 12),
})  # fmt: skip


class Fetcher:
    """Fetches for one tool. `loopback_only`: this machine and nothing else."""

    def __init__(self, environment: ToolEnvironment, *, loopback_only: bool) -> None:
        self._settings = environment.settings
        self._files = environment.files
        self._guard = UrlGuard(
            environment.settings.tools_http_allowed_hosts,
            own_ports=environment.own_ports,
            resolve=environment.resolve,
            loopback_only=loopback_only,
        )
        self._tls: ssl.SSLContext | None = None

    async def fetch(self, arguments: Arguments) -> Outcome:
        """Run one call under TOOLS_HTTP_TIMEOUT_SEC. Raises ToolFailed."""
        timeout_s = self._settings.tools_http_timeout_sec
        with trio.move_on_after(timeout_s):
            try:
                return await self._fetch(arguments)
            except PinnedFailed as failure:
                raise ToolFailed(failure.kind, f"The server {failure.words}.") from None
        raise ToolFailed("timeout", f"The fetch did not end within {timeout_s:g} s: ask for less, or try later.")

    async def _fetch(self, arguments: Arguments) -> Outcome:
        headers = check_headers(arguments.get("headers", {}))
        admitted = await self._guard.admit(arguments["url"])
        tls = await self._open_tls() if admitted.target.scheme == "https" else None
        request = self._request(arguments.get("method", "GET"), admitted, headers)
        answer = await exchange_pinned(request, tls)
        return Outcome(_fields(answer), io_bytes=answer.io_bytes)

    def _request(self, method: str, admitted: Admitted, headers: Mapping[str, str]) -> PinnedRequest:
        target = admitted.target
        return PinnedRequest(
            method=method,
            addresses=[str(address) for address in admitted.addresses],
            port=target.port,
            name=target.host,
            authority=target.authority,
            path=target.path,
            headers=headers,
            max_body_bytes=self._settings.tools_http_max_bytes,
        )

    async def _open_tls(self) -> ssl.SSLContext:
        """Made when a fetch first needs it: it costs 36 ms and 1 MB."""
        if self._tls is None:
            try:
                self._tls = await trio.to_thread.run_sync(
                    fetch_tls_context, self._settings, limiter=self._files, abandon_on_cancel=True
                )
            except ValueError:
                raise ToolFailed("tls_failed", "BACKEND_CA_BUNDLE cannot be read any more.") from None
        return self._tls


def check_headers(headers: Mapping[str, str]) -> Mapping[str, str]:
    """The headers that a caller may add. Raises ToolFailed `header_not_allowed` naming the one that is not."""
    seen = set()
    for name, value in headers.items():
        if not _TOKEN.fullmatch(name) or not _VALUE.fullmatch(value):
            raise _refused(name, "a name is made of letters, digits and dashes, a value of printable ASCII")
        plain = name.lower().replace("_", "-")  # many servers take one for the other
        if plain in _REFUSED_HEADERS or plain.startswith(_REFUSED_PREFIXES):
            raise _refused(name, "leave it out")
        if plain in seen:
            raise _refused(name, "it is there twice")
        seen.add(plain)
    return {name: value.strip(" \t") for name, value in headers.items()}


def decode_body(body: bytes, content_type: str, *, truncated: bool) -> str | None:
    """The text in the declared charset, else in UTF-8; None for what is neither. A cut body may end in half a character."""
    declared = _CHARSET.search(content_type)
    for charset in (declared[1].lower().replace("_", "-") if declared else "utf-8", "utf-8"):
        if charset in _CHARSETS:
            with suppress(UnicodeError):
                return codecs.getincrementaldecoder(charset)("strict").decode(body, final=not truncated)
    return None


def _fields(answer: PinnedAnswer) -> dict[str, Any]:
    head = answer.head
    fields: dict[str, Any] = {
        "status": head.status,
        "content_type": head.content_type[:MAX_SHOWN_CHARS],
        "truncated": answer.truncated,
    }
    if head.location is not None and 300 <= head.status < 400:
        fields["location"] = head.location[:MAX_SHOWN_CHARS]
    text = decode_body(answer.body, head.content_type, truncated=answer.truncated)
    if text is None:
        return {**fields, "body_base64": base64.b64encode(answer.body).decode()}
    return {**fields, "body_text": text}


def _refused(name: str, advice: str) -> ToolFailed:
    return ToolFailed("header_not_allowed", f"The header {name[:MAX_HEADER_NAME_CHARS]!r} may not be sent: {advice}.")
