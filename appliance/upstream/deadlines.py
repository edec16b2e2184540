"""Deadlines: one cancel scope that moves with the phases of a call, and says which limit it was."""

from types import TracebackType
from typing import Literal, Self

import trio

from appliance.protocol.errors import UpstreamTimeout

Phase = Literal["connect", "first byte", "idle", "total"]

_IN_PLAIN_WORDS: dict[Phase, str] = {
    "connect": "took no connection within {:g} s",
    "first byte": "did not answer within {:g} s",
    "idle": "fell silent for {:g} s in the middle of its answer",
    "total": "did not finish its answer within {:g} s",
}


class Deadlines:
    """One cancel scope whose deadline moves with the phases of a call; remembers which one it was."""

    def __init__(self, total_s: float) -> None:
        self.scope = trio.CancelScope()
        self.phase: Phase = "connect"
        self.limit_s = 0.0
        self._total_s = total_s
        self._end = trio.current_time() + total_s

    def __enter__(self) -> Self:
        self.scope.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        return self.scope.__exit__(kind, value, traceback)

    def enter_phase(self, phase: Phase, limit_s: float) -> None:
        deadline = trio.current_time() + limit_s
        self.phase, self.limit_s = (phase, limit_s) if deadline < self._end else ("total", self._total_s)
        self.scope.deadline = min(deadline, self._end)

    def error(self, backend_class: str) -> UpstreamTimeout:
        """The answer when the scope was cancelled: which deadline it was, in plain words."""
        return timeout_error(backend_class, self.phase, self.limit_s)


def timeout_error(backend_class: str, phase: Phase, limit_s: float) -> UpstreamTimeout:
    """The answer when a deadline passed: which one, in plain words."""
    words = _IN_PLAIN_WORDS[phase].format(limit_s)
    return UpstreamTimeout(f"{backend_class} {words} ({phase} deadline).", upstream=backend_class)
