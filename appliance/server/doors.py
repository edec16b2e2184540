"""Doors: the two addresses, bound before anything else starts, and what is said about them."""

import socket
import ssl
import sys
from dataclasses import dataclass

from appliance import __version__
from appliance.config.errors import ConfigError, Mistake
from appliance.config.loading import Configuration
from appliance.config.settings import Settings
from appliance.config.tokens import LocalToken
from appliance.server.listener_limits import ListenerLimits
from appliance.server.listener_sockets import open_sockets

CLEANUP_S = 5.0  # what clean-up work gets once the drain time is over


@dataclass(frozen=True, slots=True)
class Bound:
    """The sockets of one listener, bound and listening, and the URL to say."""

    sockets: list[socket.socket]
    url: str

    @property
    def port(self) -> int:
        return int(self.sockets[0].getsockname()[1])


def open_tls(settings: Settings) -> ssl.SSLContext | None:
    """The API listener's certificate; None: it speaks plain HTTP."""
    if settings.gateway_tls_cert_path is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(settings.gateway_tls_cert_path, settings.gateway_tls_key_path)
    context.set_alpn_protocols(["http/1.1"])
    return context


def bind(prefix: str, host: str, port: int, scheme: str) -> Bound:
    """Listen. Raises ConfigError, which names the setting `<prefix>_PORT`."""
    try:
        sockets = open_sockets(host, port)
    except OSError as error:
        what = f"{host} port {port} cannot be listened on ({error.strerror or error})"
        raise ConfigError((Mistake(f"{prefix}_PORT", f"{what}: stop what uses it, or choose another port"),)) from None
    shown = f"[{host}]" if ":" in host else host
    return Bound(sockets, f"{scheme}://{shown}:{sockets[0].getsockname()[1]}")


def listener_limits(settings: Settings) -> ListenerLimits:
    """What a connection may take, for both listeners."""
    return ListenerLimits(
        head_timeout_s=settings.head_timeout_sec,
        body_idle_timeout_s=settings.body_idle_timeout_sec,
        body_total_timeout_s=settings.body_timeout_sec,
        idle_timeout_s=settings.idle_timeout_sec,
        write_stall_timeout_s=settings.write_timeout_sec,
        max_connections=settings.max_connections,
        drain_s=settings.drain_timeout_sec + CLEANUP_S,
    )


def announce(configuration: Configuration, local: LocalToken | None, api: Bound, observability: Bound | None) -> None:
    """Say where we are, where the token is, and a line that draws a picture. The token itself only when it is new."""
    lines = [f"appliance {__version__} serves {api.url}"]
    if observability is not None:
        lines.append(f"  health and metrics: {observability.url}")
    lines += [f"  note: {warning}" for warning in configuration.warnings]
    if local is None:
        lines.append(f"  tokens: {len(configuration.tokens)}, from {configuration.token_source}")
        token = "$GATEWAY_BEARER_TOKEN"  # noqa: S105 -- the name of a variable
    else:
        lines.append(f"  token: in {local.path}")
        if local.is_new:
            lines.append(f"  token, shown this once: {local.token.secret.decode('ascii')}")
        token = f"$(cat {local.path})"
    lines.append("  a first picture:")
    lines.append(f'    curl -s {api.url}/v1/images/generations -H "Authorization: Bearer {token}" \\')
    lines.append("      -H 'Content-Type: application/json' -d '{\"prompt\": \"a lighthouse at dusk\"}'")
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()
