"""HTTP as a stranger speaks it: one connection a call, no redirects, no proxies, every header as it came."""

import http.client
import json
import re
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

MAX_BODY_BYTES = 384 * 1024 * 1024  # four pictures of 64 MiB in base64, and room

_REQUEST_ID = re.compile(r"req-[0-9a-f]{24}")


class Unreachable(Exception):
    """No answer came. The text is one line and says what to try."""


@dataclass(frozen=True, slots=True)
class Call:
    """One request; `url` is absolute."""

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer, whole."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def header(self, name: str) -> str | None:
        """The value of this header; several are joined by a comma and a space, so that a doubled one shows."""
        values = [value for key, value in self.headers if key.lower() == name.lower()]
        return ", ".join(values) if values else None

    def json(self) -> Any:
        """The body as JSON, None if it is none."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            return None

    def has_request_id(self) -> bool:
        """Say whether `x-request-id` is there, once and well-formed."""
        return _REQUEST_ID.fullmatch(self.header("x-request-id") or "") is not None

    def brief(self) -> str:
        """Status and message, for a line of a report."""
        body = self.json()
        error = body.get("error") if isinstance(body, dict) else None
        message = error.get("message") if isinstance(error, dict) else error
        text = message if isinstance(message, str) else self.body[:120].decode("utf-8", "replace")
        return one_line(f"{self.status} {text}".strip())


Exchange = Callable[[Call], Answer]


@dataclass(frozen=True, slots=True)
class Gateway:
    """A gateway under test: where it is, which token opens it, and how calls travel."""

    base_url: str
    token: str
    exchange: Exchange

    def get(self, target: str, *, token: str | None = None) -> Answer:
        """GET a path below the base URL; without `token` as a stranger."""
        return self.exchange(Call("GET", self.base_url + target, _bearer(token)))

    def post(
        self, target: str, body: object, *, token: str | None = None, content_type: str = "application/json"
    ) -> Answer:
        """POST a JSON body, or bytes as they are."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.exchange(
            Call("POST", self.base_url + target, {"Content-Type": content_type, **_bearer(token)}, data)
        )


def _bearer(token: str | None) -> dict[str, str]:
    return {} if token is None else {"Authorization": f"Bearer {token}"}


def check_base_url(text: str) -> str:
    """Return the URL without its trailing slash. Raises ValueError saying what is wrong."""
    parts = urlsplit(text)
    if not text.isascii() or any(c.isspace() for c in text):
        raise ValueError(f"{text!r}: an address holds neither blanks nor letters beyond ASCII")
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError(f"{text!r} is no address: write http://HOST:PORT or https://HOST:PORT")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError(f"{parts.scheme}://{parts.hostname}: leave out user names, ? and #")
    _ = parts.port  # raises ValueError with the reason
    return text.rstrip("/")


def is_loopback(base_url: str) -> bool:
    """Say whether this address is certainly on this machine."""
    host = urlsplit(base_url).hostname or ""
    return host in {"localhost", "::1"} or re.fullmatch(r"127(\.\d{1,3}){3}", host) is not None


def open_exchange(*, insecure: bool, timeout_s: float) -> Exchange:
    """Make the function that carries calls. timeout_s: longest silence. It raises Unreachable."""
    context = _context(insecure=insecure)

    def exchange(call: Call) -> Answer:
        try:
            return _exchange(call, context, timeout_s)
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(explain(error, call.url, timeout_s)) from None

    return exchange


def open_lines(
    call: Call, *, timeout_s: float, insecure: bool = False, on_refusal: Callable[[Answer], object]
) -> Iterator[bytes]:
    """Carry a call whose answer comes line by line. An answer of 400 or more is read whole and given to `on_refusal`.

    Raises Unreachable.
    """
    connection = _connect(call, _context(insecure=insecure), timeout_s)
    try:
        _send(connection, call)
        response = connection.getresponse()
        if response.status >= 400:
            on_refusal(Answer(response.status, tuple(response.getheaders()), response.read(MAX_BODY_BYTES)))
            return
        while line := response.readline(MAX_BODY_BYTES):
            yield line.rstrip(b"\r\n")
    except (OSError, http.client.HTTPException) as error:
        raise Unreachable(explain(error, call.url, timeout_s)) from None
    finally:
        connection.close()


def _context(*, insecure: bool) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _connect(call: Call, context: ssl.SSLContext, timeout_s: float) -> http.client.HTTPConnection:
    parts = urlsplit(call.url)
    host = parts.hostname or ""
    if parts.scheme == "https":
        return http.client.HTTPSConnection(host, parts.port, timeout=timeout_s, context=context)
    return http.client.HTTPConnection(host, parts.port, timeout=timeout_s)


def _send(connection: http.client.HTTPConnection, call: Call) -> None:
    parts = urlsplit(call.url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    connection.request(call.method, target, call.body, {"Connection": "close", **call.headers})


def _exchange(call: Call, context: ssl.SSLContext, timeout_s: float) -> Answer:
    connection = _connect(call, context, timeout_s)
    try:
        _send(connection, call)
        response = connection.getresponse()
        body = response.read(MAX_BODY_BYTES)
        if response.length:  # read(amount) is silent about a body cut short, or one that is longer
            raise http.client.IncompleteRead(body, response.length)
        return Answer(response.status, tuple(response.getheaders()), body)
    finally:
        connection.close()


def explain(error: Exception, url: str, timeout_s: float) -> str:
    """Say in one line why no answer came, and what to try."""
    parts = urlsplit(url)
    where = f"{parts.scheme}://{parts.netloc}"
    match error:
        case ssl.SSLCertVerificationError():
            return f"{where}: its certificate is not trusted ({error.verify_message}): add --insecure if you know it"
        case ssl.SSLError():
            return f"{where}: TLS failed ({error.reason}): if it speaks plain HTTP, write http://"
        case ConnectionRefusedError():
            return f"{where}: connection refused: nothing listens there; start it, or name the right address"
        case TimeoutError():
            return f"{where}: silent for {timeout_s:g} s: it hangs, or a firewall drops; raise --timeout if it is slow"
        case socket.gaierror():
            return f"{where}: no such host: check the name"
        case http.client.BadStatusLine() | ConnectionResetError():
            return f"{where}: hung up without an answer: if it speaks TLS, write https://"
        case _:
            return one_line(f"{where}: {str(error) or type(error).__name__}")


def one_line(text: str) -> str:
    """The text without line ends and control characters, at most 300 characters: it goes to a terminal."""
    return "".join(c if c.isprintable() else " " for c in text)[:300]
