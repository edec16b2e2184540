"""Exchange: the vocabulary of a call to a backend, free of the HTTP library that makes it."""

import base64
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from appliance.config.classes import BackendClass
from appliance.protocol.frozen import frozen

MAX_JSON_BYTES = 16 * 1024 * 1024  # threats: an upstream's JSON


def _ignore() -> None:
    return


@frozen
class UpstreamCall:
    """One request to a backend, with the deadlines and caps of its answer: seconds and bytes.

    `url` may hold `user:password@`: it is sent as HTTP Basic and never appears in an error.
    `first_byte_s` runs from the connection to the answer's headers, `idle_s` between two pieces of its body,
    `total_s` over all of it. `on_connected` is called, once, before the first byte of the request is written: a call that
    was cut off earlier left nothing behind.
    """

    backend_class: str
    method: str
    url: str
    first_byte_s: float
    idle_s: float
    total_s: float = math.inf
    max_body_bytes: int = MAX_JSON_BYTES
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    on_connected: Callable[[], None] = _ignore
    keep_alive: bool = False


def login_headers(backend_class: BackendClass) -> dict[str, str]:
    """HTTP Basic (RFC 7617) for a class that is logged in to so, nothing for any other."""
    login = backend_class.login
    if login is None or not login.by_basic:
        return {}
    pair = f"{login.user}:{login.password.get_secret_value()}".encode()
    return {"Authorization": "Basic " + base64.b64encode(pair).decode("ascii")}


@dataclass(frozen=True, slots=True)
class UpstreamAnswer:
    """The whole answer, read within its caps. `latency_s`: from the start of the call to the answer's headers."""

    status: int
    content_type: str
    retry_after: str | None
    body: bytes
    latency_s: float
