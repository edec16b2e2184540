"""Visit: one request from its first byte to its last clean-up: its id, its stack, and what became of it."""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import trio

from appliance.config.tokens import Token
from appliance.dispatch.dispatch import Caller

SCOPE_KEY = "appliance.visit"  # where the listener finds the visit of a request that it has to answer itself

_T = TypeVar("_T")

Outcome = Literal["completed", "disconnected", "failed"]


class VisitStack(AsyncExitStack):
    """`waits`: something was pushed whose end may have to be waited for; without it, closing does not need a shield."""

    waits = False

    async def enter_async_context(self, cm: AbstractAsyncContextManager[_T, bool | None]) -> _T:
        self.waits = True
        return await super().enter_async_context(cm)

    def push_async_callback(self, callback: Any, /, *args: Any, **kwds: Any) -> Any:
        self.waits = True
        return super().push_async_callback(callback, *args, **kwds)

    def push_async_exit(self, exit: Any) -> Any:  # noqa: A002 -- the library's name
        self.waits = True
        return super().push_async_exit(exit)


@dataclass(slots=True, eq=False)
class Visit:
    """The facts of one request, filled in as they become known. Times are trio's clock, in seconds.

    `scope`: what the request runs in; cancelled when its client leaves or the gateway stops.
    `events`: the answer is a stream of events; `sending`: one of them is on its way; `left`: cancelled because its
    client has gone.

    Everything the request holds is pushed on `stack`, which is closed around the ASGI call, in a shielded scope.
    """

    request_id: str
    method: str
    path: str
    started_at: float
    scope: trio.CancelScope
    base_url: str = ""
    peer: str = ""
    token: Token | None = None
    route: str = "(other)"
    _stack: VisitStack | None = None
    status: int | None = None
    error_code: str | None = None
    backend_class: str | None = None
    model: str | None = None
    bytes_in: int = 0
    bytes_out: int = 0
    events: bool = False
    sending: bool = False
    answered: bool = False
    first_byte_at: float | None = None
    disconnected_at: float | None = None
    left: bool = False

    @property
    def stack(self) -> VisitStack:
        """What this request holds; made for the first thing that it does."""
        if self._stack is None:
            self._stack = VisitStack()
        return self._stack

    @property
    def held(self) -> VisitStack | None:
        """The stack, if anything was ever held."""
        return self._stack

    def caller(self) -> Caller:
        """This request as dispatch sees it."""
        return Caller(self.request_id, self.stack, self.note_lease)

    def note_lease(self, backend_class: str) -> None:
        """A slot of this class was taken for the request."""
        self.backend_class = backend_class

    def leave(self, now: float) -> None:
        """The client has left: what runs for it is cancelled."""
        self.note_disconnect(now)
        self.left = True
        self.scope.cancel()

    def note_disconnect(self, now: float) -> None:
        """The client has left; what happens after its answer is complete is no disconnect."""
        if not self.answered and self.disconnected_at is None:
            self.disconnected_at = now

    def outcome(self) -> Outcome:
        if self.answered:
            return "completed"
        return "disconnected" if self.disconnected_at is not None else "failed"

    def journal_line(self, now: float, ts: float) -> dict[str, object]:
        """The one journal line of this request, without what never became known."""
        line: dict[str, object] = {
            "ts": round(ts, 3),
            "request_id": self.request_id,
            "method": self.method,
            "route": self.route,
            "status": self.status,
            "outcome": self.outcome(),
            "code": self.error_code,
            "peer": self.peer,
            "token": self.token.fingerprint if self.token else None,
            "backend_class": self.backend_class,
            "model": self.model,
            "bytes_in": self.bytes_in,
            "bytes_out": self.bytes_out,
            "ttfb_ms": _ms(self.first_byte_at, self.started_at),
            "duration_ms": _ms(now, self.started_at),
            "release_ms": _ms(now, self.disconnected_at) if self.backend_class else None,
        }
        return {key: value for key, value in line.items() if value is not None}


def _ms(end: float | None, start: float | None) -> float | None:
    return None if end is None or start is None else round((end - start) * 1000, 3)


OnFinished = Callable[[Visit], None]
Send = Callable[[Any], Awaitable[None]]
"""ASGI's: takes a message."""
