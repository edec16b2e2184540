"""Meter: a bound on what tools read and write while they run, set by whoever calls them.

Tools whose single call is bounded by a setting are counted when they have ended; programs, which may write for as long
as they run, are counted as they do. The meter of a call is found through the task that makes it, like a cancel scope.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import trio

_SPEND: ContextVar[Callable[[int], None] | None] = ContextVar("spend", default=None)


@dataclass(slots=True, eq=False)
class Metered:
    """One call under a budget. `counted`: the bytes that it was seen to move; the scope says whether it was ended."""

    scope: trio.CancelScope
    counted: int = 0


class IoBudget:
    """What all calls of one caller may move together, in bytes; `spent` is what they have."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.spent = 0

    def __repr__(self) -> str:
        return f"<IoBudget {self.spent}/{self.limit_bytes}>"

    @contextmanager
    def metered(self) -> Iterator[Metered]:
        """Cancel what runs inside as soon as the budget is overdrawn. Calls may run side by side."""
        with trio.CancelScope() as scope:
            call = Metered(scope)

            def spend(count: int) -> None:
                call.counted += count
                self.spent += count
                if self.spent > self.limit_bytes:
                    scope.cancel()

            token = _SPEND.set(spend)
            try:
                yield call
            finally:
                _SPEND.reset(token)

    def settle(self, call: Metered, io_bytes: int) -> None:
        """A call has ended, and moved so many bytes in all: what was not counted as it came is counted now."""
        self.spent += max(0, io_bytes - call.counted)


def spend(count: int) -> None:
    """A tool moved so many bytes, on behalf of whoever called it."""
    meter = _SPEND.get()
    if meter is not None:
        meter(count)
