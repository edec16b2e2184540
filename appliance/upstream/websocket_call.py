"""What a WebSocket is opened with. Apart from it, because wsproto and h11 are imported where a backend has one alone."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


def _ignore() -> None:
    return


@dataclass(frozen=True, slots=True)
class WebSocketCall:
    """Where to open a WebSocket, and within what: seconds and bytes.

    `url` is http:// or https:// as for any other call, `user:password@` in it is sent as HTTP Basic. `handshake_s` runs
    from the connection to the server's consent. `on_connected` is called before the first byte is written.
    """

    backend_class: str
    url: str
    handshake_s: float
    max_message_bytes: int
    headers: Mapping[str, str] = field(default_factory=dict)
    on_connected: Callable[[], None] = _ignore
