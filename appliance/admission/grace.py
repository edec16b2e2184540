"""Grace: shielded scopes with a deadline each, which the end of the process may bring forward."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import trio


class Grace:
    """Hands out the shields of clean-up work. `cut` makes every one of them, now and later, end by a time."""

    def __init__(self) -> None:
        self._scopes: set[trio.CancelScope] = set()
        self._latest = math.inf

    @contextmanager
    def shield(self, seconds: float) -> Iterator[trio.CancelScope]:
        """Shield the body from cancellation for at most `seconds`."""
        deadline = min(trio.current_time() + seconds, self._latest)
        with trio.CancelScope(shield=True, deadline=deadline) as scope:
            self._scopes.add(scope)
            try:
                yield scope
            finally:
                self._scopes.discard(scope)

    def cut(self, seconds: float) -> None:
        """Whatever is shielded ends within `seconds`: the process is going."""
        self._latest = min(self._latest, trio.current_time() + seconds)
        for scope in self._scopes:
            scope.deadline = min(scope.deadline, self._latest)
