"""Lane: the short way for plain HTTP/1.1, each request in its connection's own task; the rest goes to hypercorn's.

Hypercorn's HTTP/1.1 costs a request 300 us: h11, a stream object, queues and a task for each. Of the requests that come
all day (HTTP/1.1, no TLS, no field twice, a body of known length) none needs them.
"""

import math
from collections.abc import Callable

import trio

from appliance.server.connection import HypercornConversation, hypercorn_conversations
from appliance.server.connection_lane_call import LaneCall, make_scope
from appliance.server.connection_link import RECEIVE_BYTES, Link
from appliance.server.connection_requests import AsgiApp
from appliance.server.listener_limits import CONTAINED, CrashReport, ListenerLimits
from appliance.server.strict import PlainHead, plain_head
from appliance.upstream.coalescing import Coalescer

# How long the connection's task stays with an application that goes on after its answer, before another one reads on.
RELIEF_S = 0.4

StockFactory = Callable[[Link], HypercornConversation]


def lane_conversations(
    app: AsgiApp, limits: ListenerLimits, on_crash: CrashReport, coalescer: Coalescer
) -> "Callable[[Link], LaneConversation | HypercornConversation]":
    """Make the accept loop's conversation factory for an ASGI application."""
    stock = hypercorn_conversations(app, limits, on_crash)

    def make(link: Link) -> LaneConversation | HypercornConversation:
        return stock(link) if link.socket is None else LaneConversation(link, app, stock, on_crash, coalescer)

    return make


class LaneConversation:
    """One client's plain requests, read from its socket and answered to it without a layer between.

    A head that is incomplete or in any way unusual is not judged here: hypercorn's conversation takes over, with the
    bytes that were read, and keeps the connection. Deadlines are numbers that `sweep` looks at; a hang-up is heard by
    the listener's watcher; sends that do not go through at once are the link's.
    """

    def __init__(
        self, link: Link, app: AsgiApp, stock: StockFactory, on_crash: CrashReport, coalescer: Coalescer
    ) -> None:
        if link.socket is None:
            raise AssertionError("the lane is for plain sockets")
        self._link = link
        self._socket = link.socket
        self._app = app
        self._make_stock = stock
        self._on_crash = on_crash
        self.line_up = coalescer.line_up
        self._limits = link.limits
        self._stock: HypercornConversation | None = None
        self._scope: trio.CancelScope | None = None
        self._scopes: set[trio.CancelScope] = set()
        self._call: LaneCall | None = None
        self._buffer = b""
        self._requests = 0
        self._last = False
        self._draining = False
        self._leaving = False
        self._deadline = math.inf
        self._body_deadline = math.inf
        self._start_soon: Callable[..., None] = _not_running

    @property
    def waiting(self) -> bool:
        """Whether no request is running, so that closing hurts nobody."""
        if self._stock is not None:
            return self._stock.waiting
        return self._link.closing or self._call is None or self._call.closed

    async def run(self) -> None:
        """Serve until the connection ends and every call made for it has come back. Closes the link at once, always."""
        self._link.when_gone = self._leave
        self._deadline = trio.current_time() + self._limits.head_timeout_s
        try:
            # Here and not in the caller: a call lives as long as its clean-up, and its connection waits for it.
            async with trio.open_nursery() as nursery:
                self._start_soon = nursery.start_soon
                await self._serve()
        finally:
            self._link.cut()

    def drain(self) -> None:
        """Take no further request; the running one may end."""
        if self._stock is not None:
            self._stock.drain()
            return
        self._draining = True
        if self.waiting:
            self._link.hang_up()

    def cancel_requests(self) -> None:
        """Cancel the running calls; each may have a last word from under a shield."""
        if self._stock is not None:
            self._stock.cancel_requests()
        for scope in self._scopes:
            scope.cancel()

    def sweep(self, now: float) -> None:
        """Do what is due by now."""
        if now < self._deadline or self._link.gone or self._stock is not None:
            return
        self._deadline = math.inf
        call = self._call
        if call is None:
            self._link.cut()
        elif call.closed:
            self._scope = None  # its task goes on with what the application still does, and no further
            self._start_soon(self._serve if self._end_call(call) else self._finish)
        else:
            self._start_soon(self._time_out, call)

    # What a call asks of its connection.

    async def read_body(self, left: int) -> bytes:
        if self._buffer:
            piece, self._buffer = self._buffer[:left], self._buffer[left:]
        else:
            idle = trio.current_time() + self._limits.body_idle_timeout_s
            self._deadline = min(idle, self._body_deadline)
            data = await self._read()
            piece, self._buffer = data[:left], data[left:]
            self._deadline = self._body_deadline
        if len(piece) == left or self._leaving:
            self._deadline = math.inf  # the application's turn; the client owes nothing
        return piece

    def take_body_nowait(self, left: int) -> bytes | None:
        if len(self._buffer) < left:
            return None
        body, self._buffer = self._buffer[:left], self._buffer[left:]
        return body

    async def write(self, data: bytes) -> None:
        link = self._link
        if link.closing or link.gone:
            await trio.lowlevel.checkpoint()
            return
        try:
            sent = self._socket.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            link.cut()
            return
        if sent < len(data):
            await link.write(memoryview(data)[sent:])

    def is_last(self, left: int) -> bool:
        return self._draining or self._last or left > len(self._buffer)

    def note_answered(self) -> None:
        self._deadline = trio.current_time() + RELIEF_S

    # The connection's own way.

    async def _serve(self) -> None:
        """Serve request after request, to the end of the connection, or until another task has taken over."""
        scope = self._scope = trio.CancelScope()
        self._scopes.add(scope)
        with scope:
            while await self._serve_next(scope):
                pass
        self._scopes.discard(scope)
        if self._scope is scope:
            await self._finish(cancelled=scope.cancelled_caught)

    async def _serve_next(self, scope: trio.CancelScope) -> bool:
        head = await self._next_head()
        if head is None:
            return False
        call = self._begin(head, scope)
        try:
            await self._app(call.asgi_scope, call.receive, call.send)
        except* CONTAINED as group:
            self._on_crash(group)
        return self._scope is scope and self._end_call(call)

    async def _next_head(self) -> PlainHead | None:
        """The next request, if there is one and it is a plain one."""
        if self._requests:
            self._deadline = trio.current_time() + self._limits.idle_timeout_s
        if self._buffer:
            await trio.lowlevel.checkpoint()
        else:
            self._buffer = await self._read()
            if not self._buffer:
                return None
        limits = self._limits
        head = plain_head(self._buffer, max_bytes=limits.max_head_bytes, max_fields=limits.max_header_fields)
        if head is None:
            self._stock = self._make_stock(self._link)
            if self._draining:
                self._stock.drain()
            return None
        self._buffer = self._buffer[head.end :]
        return head

    def _begin(self, head: PlainHead, scope: trio.CancelScope) -> LaneCall:
        self._requests += 1
        self._last = head.last or self._requests >= self._limits.max_requests_per_connection
        self._body_deadline = math.inf
        if head.length > len(self._buffer):
            self._body_deadline = trio.current_time() + self._limits.body_total_timeout_s
        self._deadline = self._body_deadline
        call = self._call = LaneCall(self, scope, head_only=head.method == b"HEAD", length=head.length)
        call.asgi_scope = make_scope(head, call, client=self._link.peer, server=self._link.local)
        return call

    def _end_call(self, call: LaneCall) -> bool:
        """The call is over, or nothing more is expected of it; whether the next request may come."""
        if not call.closed:
            return False
        call.asgi_scope = {}  # it leads back to the call: a cycle that only the garbage collector would find
        if call.last or self._draining or self._link.closing or self._link.gone:
            return False
        self._buffer = self._buffer[call.left :]
        self._call = None
        return True

    async def _finish(self, *, cancelled: bool = False) -> None:
        call = self._call
        if self._stock is not None:
            await self._stock.run(self._buffer, None if self._requests else self._deadline)
        elif call is not None and not self._leaving and not self._link.gone:
            if not call.closed and cancelled:
                await self._refuse(call, 503, "shutting_down", "The gateway is stopping; try again in a moment.")
            elif not call.closed:
                await self._refuse(call, 500, "internal_error", "The gateway failed to answer this request.")
            await self._say_goodbye(linger=call.left > 0 or bool(self._buffer))

    async def _time_out(self, call: LaneCall) -> None:
        self._leaving = True
        await self._refuse(call, 408, "request_timeout", "The request body did not arrive in time.")
        call.leave(self._limits.leave_s)
        if not self._link.gone:
            trio.lowlevel.notify_closing(self._socket)  # wakes the reader: what it waited for is not wanted any more
        await self._say_goodbye(linger=True)

    async def _refuse(self, call: LaneCall, status: int, code: str, message: str) -> None:
        """Answer in the application's place if it has not begun to."""
        if call.begun:
            self._link.close_soon()
        else:
            await self._link.answer_and_close(status, code, message, call.asgi_scope)

    async def _say_goodbye(self, *, linger: bool) -> None:
        self._leaving = True
        if not self._link.gone:
            self._link.close_soon()
            await self._link.take_leave(linger=linger)
        self._link.cut()

    def _leave(self) -> None:
        if self._call is not None:
            self._call.leave(self._limits.leave_s)

    async def _read(self) -> bytes:
        """What came; nothing when nothing more will."""
        while not self._link.gone and not self._leaving:
            try:
                await trio.lowlevel.wait_readable(self._socket)
                data = self._socket.recv(RECEIVE_BYTES)
            except BlockingIOError:
                continue
            except (OSError, trio.ClosedResourceError):
                data = b""
            if not data and not self._leaving:
                self._link.cut()
            return data
        return b""


def _not_running(*_: object) -> None:
    raise RuntimeError("the conversation has not begun")
