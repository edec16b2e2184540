"""Listening sockets: bound, listening, and fenced by the kernel against peers that went silent."""

import errno
import os
import socket

# A SYN flood of retries after a restart must not be dropped; the kernel caps it at net.core.somaxconn.
BACKLOG = 1024
# The second fence behind the listener's own write deadline (30 s): four times that, because a slow but steady reader's
# kernel may tell of progress only once in a while.
TCP_USER_TIMEOUT_MS = 120_000
# A client whose machine vanished without a word, while its request runs for minutes: noticed after about a minute.
KEEPALIVE_IDLE_S = 30
KEEPALIVE_INTERVAL_S = 10
KEEPALIVE_PROBES = 3

_NO_SUCH_ADDRESS = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT})


def open_sockets(host: str, port: int) -> list[socket.socket]:
    """Bind and listen on every address of a host: `localhost` on IPv4 and IPv6, `::` on both by one socket.

    Port 0 takes a free one, the same for all addresses. *Raises* OSError with host, port and reason.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    opened: list[socket.socket] = []
    skipped: OSError | None = None
    try:
        for family, _, _, _, address in dict.fromkeys(found):
            chosen = opened[0].getsockname()[1] if opened else port
            try:
                opened.append(_listen(family, (address[0], chosen, *address[2:])))
            except OSError as error:
                if error.errno not in _NO_SUCH_ADDRESS:
                    raise
                skipped = error  # a machine without IPv6 still has a localhost
        if not opened and skipped is not None:
            raise skipped
    except OSError as error:
        for one in opened:
            one.close()
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise OSError(error.errno, f"cannot listen on {host} port {port}: {reason}") from error
    return opened


def _listen(family: int, address: tuple[object, ...]) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, address[0] != "::")
        _fence(listener)
        listener.bind(address)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener


def _fence(listener: socket.socket) -> None:
    """Set what accepted sockets inherit (Linux, tcp(7))."""
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, TCP_USER_TIMEOUT_MS)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_S)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)
