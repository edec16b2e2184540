"""Coalescing: what many tasks are about to send in the same turn of the loop goes out in a row."""

from collections.abc import Iterator
from contextlib import contextmanager

import trio

MANY = 8  # sends in a turn; below that the turn that is waited costs as much as it saves


class Coalescer(trio.abc.Instrument):
    """A send that finds its receiver asleep has to wake it on another core, which costs four times the send.

    So where many are due in one turn of the loop, each task waits a turn right before its own: they all go out with
    nothing between them, and the receiver, woken once, is awake for the rest. Where few are due, nobody waits.
    """

    def __init__(self) -> None:
        self._due = 0
        self._many = False

    def before_io_wait(self, timeout: float) -> None:
        """A turn is over."""
        self._many = self._due >= MANY
        self._due = 0

    async def line_up(self) -> None:
        """To be called right before a send, and what holds after it looked at again. Not a place to be cancelled."""
        self._due += 1
        if self._many:
            await trio.lowlevel.cancel_shielded_checkpoint()


@contextmanager
def open_coalescer() -> Iterator[Coalescer]:
    """One for this run of trio, or a part of it."""
    coalescer = Coalescer()
    trio.lowlevel.add_instrument(coalescer)
    try:
        yield coalescer
    finally:
        trio.lowlevel.remove_instrument(coalescer)
