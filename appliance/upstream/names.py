"""Names: a host to its addresses, by the system's resolver, in a thread of trio's own."""

from collections.abc import Sequence

import trio


async def resolve(host: str, port: int) -> Sequence[str]:
    """IP addresses as text, in the resolver's order, each once. Raises OSError. The caller sets the deadline."""
    found = await trio.socket.getaddrinfo(host, port, type=trio.socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))
