"""Hang-ups: one watcher that hears at once when a client goes, whatever is unread and whoever is busy."""

import select
from collections.abc import Callable

import trio

# The peer closed its sending side, or the connection is reset. Linux tells even while data lies unread before it.
_EVENTS = select.EPOLLRDHUP | select.EPOLLONESHOT


class HangupWatcher:
    """Calls back once when the peer of a watched socket hangs up.

    A reader cannot do this: it has to stop reading when the application is behind, and then it does not see the end.
    (An end that waits behind more data than the receive buffer takes is not seen here either; the body deadline is.)
    """

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._watched: dict[int, Callable[[], None]] = {}

    def watch(self, fd: int, hung_up: Callable[[], None]) -> None:
        self._watched[fd] = hung_up
        self._epoll.register(fd, _EVENTS)

    def forget(self, fd: int) -> None:
        """Stop watching; to be called before the socket closes, because its number is used again.

        A child that was just forked may hold the socket for a moment longer: closing alone would not end the watch.
        """
        if self._watched.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            await trio.lowlevel.wait_readable(self._epoll.fileno())
            for fd, _ in self._epoll.poll(0):
                hung_up = self._watched.get(fd)
                if hung_up is not None:
                    hung_up()

    def close(self) -> None:
        self._epoll.close()
