"""Connection: who speaks hypercorn's HTTP/1.1 with a client; hypercorn itself is imported when the first one needs it.

It is 3 MB and 60 ms (h11, h2, hpack, wsproto, multiprocessing), and a box whose clients all send plain requests to the
lane never needs it.
"""

import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import trio

from appliance.server.connection_link import Link
from appliance.server.connection_requests import AsgiApp
from appliance.server.listener_limits import CrashReport, ListenerLimits

if TYPE_CHECKING:
    from appliance.server.connection_hypercorn import H11Conversation

Make = Callable[[Link], "H11Conversation"]

_REAL = "appliance.server.connection_hypercorn"


def hypercorn_conversations(
    app: AsgiApp, limits: ListenerLimits, on_crash: CrashReport
) -> "Callable[[Link], HypercornConversation]":
    """Make the accept loop's conversation factory for an ASGI application."""
    late = _LateMake(lambda: _import_make(app, limits, on_crash))
    return lambda link: HypercornConversation(link, late.get)


def import_hypercorn() -> None:
    """Import it now: where every connection needs it, none should wait for it."""
    import appliance.server.connection_hypercorn  # noqa: F401, PLC0415 -- 3 MB that few configurations want at once


def _import_make(app: AsgiApp, limits: ListenerLimits, on_crash: CrashReport) -> Make:
    from appliance.server.connection_hypercorn import H11Conversation, build_config  # noqa: PLC0415 -- as above

    config = build_config(limits)
    return lambda link: H11Conversation(link, app, config, on_crash)


class _LateMake:
    """The factory of the real conversations. A thread imports it, so that running streams go on meanwhile."""

    def __init__(self, import_make: Callable[[], Make]) -> None:
        self._import_make = import_make
        self._make: Make | None = None

    async def get(self) -> Make:
        # A module stands in the table while it is being run; once it has this class, the rest holds nobody up.
        if self._make is None and hasattr(sys.modules.get(_REAL), "H11Conversation"):
            self._make = self._import_make()
        elif self._make is None:
            self._make = await trio.to_thread.run_sync(self._import_make)
        return self._make


class HypercornConversation:
    """Stands for hypercorn's conversation until that can be made, and before it; a Conversation for the accept loop."""

    def __init__(self, link: Link, get_make: Callable[[], Awaitable[Make]]) -> None:
        self._link = link
        self._get_make = get_make
        self._real: H11Conversation | None = None
        self._draining = False

    @property
    def waiting(self) -> bool:
        """Whether no request is running, so that closing hurts nobody."""
        return self._real is None or self._real.waiting

    async def run(self, received: bytes = b"", head_deadline: float | None = None) -> None:
        """Serve until the connection ends and every call made for it has come back. Closes the link at once, always.

        `received`: what somebody else has read already; `head_deadline`: until when the first head must be complete.
        """
        try:
            make = await self._get_make()
            self._real = make(self._link)
            if self._draining:
                self._real.drain()
            await self._real.run(received, head_deadline)
        finally:
            self._link.cut()

    def sweep(self, now: float) -> None:
        """Its deadlines are cancel scopes, and need nobody who looks after them."""

    def drain(self) -> None:
        """Take no further request; the running one may end."""
        self._draining = True
        if self._real is not None:
            self._real.drain()
        else:
            self._link.hang_up()

    def cancel_requests(self) -> None:
        """Cancel the running calls; each may have a last word from under a shield."""
        if self._real is not None:
            self._real.cancel_requests()
