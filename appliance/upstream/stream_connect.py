"""Connecting: a TCP connection to a backend, under TLS where its address says https."""

import socket
import ssl
from collections.abc import Awaitable, Callable

import trio

from appliance.protocol.errors import UpstreamFailed
from appliance.upstream.bare import Alarms, BareStream
from appliance.upstream.coalescing import Coalescer
from appliance.upstream.deadlines import Phase, timeout_error
from appliance.upstream.wire_request import Address

Connect = Callable[[Address], Awaitable[trio.abc.Stream]]


async def connect(address: Address, tls: ssl.SSLContext, alarms: Alarms, coalescer: Coalescer) -> trio.abc.Stream:
    """Open a connection that is ready for a request. Raises OSError, trio.BrokenResourceError.

    Closed again on every way out but success.
    """
    stream = await connect_tcp(address.host, address.port)
    if address.scheme != "http":
        return await secure(stream, tls, name=address.host)
    connected = stream.socket
    bare = socket.socket(connected.family, connected.type, connected.proto, connected.detach())
    bare.setblocking(False)
    return BareStream(bare, alarms, coalescer)


async def secure(stream: trio.abc.Stream, tls: ssl.SSLContext, *, name: str) -> trio.abc.Stream:
    """Speak TLS with whoever has a certificate for `name`. Raises trio.BrokenResourceError; closes the stream then."""
    # Without a closing alert an end is still an end: JSON and event streams say themselves whether they are complete.
    secured = trio.SSLStream(stream, tls, server_hostname=name, https_compatible=True)
    try:
        await secured.do_handshake()
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    return secured


async def dial(
    backend_class: str, connect: Connect, address: Address, connect_s: float, phase: Phase = "connect"
) -> trio.abc.Stream:
    """Connect to a backend class within `connect_s`. Raises UpstreamFailed, UpstreamTimeout in words for a client."""
    try:
        with trio.move_on_after(connect_s):
            return await connect(address)
    except trio.BrokenResourceError:
        words = "failed the TLS handshake"
    except OSError:
        words = "cannot be reached"
    except UnicodeError:  # a host that IDNA cannot spell
        words = "has an address that is not a URL"
    else:
        raise timeout_error(backend_class, phase, connect_s)
    raise UpstreamFailed(f"{backend_class} {words}.", upstream=backend_class)


async def connect_tcp(host: str, port: int) -> trio.SocketStream:
    """An address is dialled as it is; a name is looked up in a thread, and its addresses are raced. Raises OSError."""
    family = _family(host)
    if family is None:
        return await trio.open_tcp_stream(host, port)
    sock = trio.socket.socket(family, socket.SOCK_STREAM)
    try:
        await sock.connect((host, port))
    except BaseException:
        sock.close()
        raise
    return trio.SocketStream(sock)


def _family(host: str) -> socket.AddressFamily | None:
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host)
        except OSError:
            continue
        return family
    return None
