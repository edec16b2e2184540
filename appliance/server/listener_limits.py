"""Listener limits: how long and how much one connection may take, and what a refused one is told."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class ListenerLimits:
    """Deadlines in seconds, sizes in bytes. Precedents are named where one was followed."""

    head_timeout_s: float = 5.0
    """From the first byte of a request, or the accepted connection, to the end of its header fields (Go's example: 5)."""
    body_idle_timeout_s: float = 10.0
    """Between two pieces of a request body, while it is the client that is waited for (nginx: 60)."""
    body_total_timeout_s: float = 60.0
    """From the end of the head to the end of the body, an application that does not read included."""
    idle_timeout_s: float = 75.0
    """Between two requests on one connection (nginx keepalive_timeout: 75)."""
    write_stall_timeout_s: float = 30.0
    """How long a reader may take nothing at all. Slow but steady readers never reach it."""
    tls_handshake_timeout_s: float = 10.0
    """From the accepted connection to the end of the TLS handshake (Go: 10)."""
    max_connections: int = 1024
    """Per listener. At the cap the connection that waits longest for a request makes room for a new one."""
    max_head_bytes: int = 16_384
    """Request line and header fields, line ends included (node 80 KiB, tomcat 8, h11 16)."""
    max_header_fields: int = 100
    """Apache LimitRequestFields: 100."""
    max_requests_per_connection: int = 1000
    """Then the answer says `connection: close` (nginx keepalive_requests: 1000)."""
    leave_s: float = 5.0
    """What an application gets to end by itself once its client is gone; then its call is cancelled."""
    drain_s: float = 15.0
    """What running requests get after stop, before they are cancelled."""
    close_s: float = 5.0
    """What cancelled requests get after that for a last word, before their connections are cut."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer the listener gives by itself. `running`: the ASGI scope of the application call that it ends, if any."""

    status: int
    code: str
    message: str
    peer: str
    running: Mapping[str, Any] | None = None


RefusalWriter = Callable[[Refusal], bytes]
"""Renders the complete HTTP/1.1 answer, `connection: close` included."""

CrashReport = Callable[[BaseException], None]
"""Hears of what one connection or one application call raised; it must not raise itself."""

CONTAINED: tuple[type[BaseException], ...] = (Exception, SystemExit, GeneratorExit)
"""What ends at the border of a connection or a call: everything but a cancellation and the keyboard."""
