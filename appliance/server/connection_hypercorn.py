"""Connection by hypercorn: one client's HTTP/1.1 through its h11 protocol, with deadlines by what the client owes."""

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Literal, cast

import h11
import trio
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.events import Response
from hypercorn.protocol.h11 import H11Protocol
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import AppWrapper, ConnectionState, TaskGroup

from appliance.server.connection_h11 import StrictConnection
from appliance.server.connection_link import PIECE_BYTES, Link
from appliance.server.connection_requests import CALL_WHEN_LEFT, AsgiApp, Message, RunningRequest
from appliance.server.listener_limits import CONTAINED, CrashReport, ListenerLimits

Phase = Literal["head", "idle", "body", "running"]
SendToStream = Callable[[Any], Awaitable[None]]


def build_config(limits: ListenerLimits) -> Config:
    """Hypercorn's settings, as far as its protocol reads them. Its logs stay silent: the gateway keeps its own."""
    config = Config()
    config.accesslog = None
    config.errorlog = None
    config.include_server_header = False
    config.keep_alive_max_requests = limits.max_requests_per_connection
    return config


class H11Conversation:
    """Drives hypercorn's H11Protocol over a link; a Conversation for the accept loop.

    Hypercorn's own TCPServer is not used: its sends have no deadline, its idle timer dies with quart-trio's request
    nursery, and while an application reads slowly or a pipelined request waits it does not see a client go.
    """

    def __init__(self, link: Link, app: AsgiApp, config: Config, on_crash: CrashReport) -> None:
        self._link = link
        self._app = app
        self._config = config
        self._on_crash = on_crash
        self._limits = link.limits
        self._calls: set[RunningRequest] = set()
        self._current: RunningRequest | None = None
        self._draining = False
        self._body_deadline = 0.0
        self._phase: Phase = "head"

    @property
    def waiting(self) -> bool:
        """Whether no request is running, so that closing hurts nobody."""
        return self._link.closing or self._phase in {"head", "idle"}

    @property
    def last_answer(self) -> bool:
        """Whether the connection ends with the answer that begins now."""
        return self._draining or self._phase == "body"

    async def run(self, received: bytes = b"", head_deadline: float | None = None) -> None:
        """Serve until the connection ends and every call made for it has come back. Closes the link at once, always.

        `received`: what somebody else has read already; `head_deadline`: until when the first head must be complete.
        """
        try:
            # Here and not in the caller: a call lives as long as its clean-up, and its connection's task waits for it.
            async with trio.open_nursery() as nursery:
                self._enter("head")
                if head_deadline is not None:
                    self._link.reading.deadline = head_deadline
                await self._talk(_StrictProtocol(self, self._link, self._config, _Calls(self, nursery)), received)
        finally:
            self._link.cut()

    def sweep(self, now: float) -> None:
        """Its deadlines are cancel scopes, and need nobody who looks after them."""

    def drain(self) -> None:
        """Take no further request; the running one may end."""
        self._draining = True
        if self.waiting:
            self._link.hang_up()

    def cancel_requests(self) -> None:
        """Cancel the running calls; each may have a last word from under a shield."""
        for call in self._calls:
            call.scope.cancel()

    async def refuse(self, status: int, code: str, message: str) -> None:
        """Answer in the application's place if it has not begun to, and end the connection."""
        if self._current is not None and self._current.begun and not self._current.closed:
            self._link.close_soon()
            return
        running = self._current.asgi_scope if self._current is not None and not self._current.closed else None
        await self._link.answer_and_close(status, code, message, running)

    async def _talk(self, protocol: "_StrictProtocol", received: bytes) -> None:
        with self._link.reading:
            await self._feed(protocol, received)
        if self._link.reading.cancelled_caught and not self._link.closing and not self._link.gone:
            await self._time_out(protocol)
        self._leave_calls()
        if self._link.closing:
            await self._link.take_leave(linger=self._phase in {"head", "body"} or protocol.bytes_waiting)
        self._link.cut()
        await protocol.handle(Closed())

    async def _feed(self, protocol: "_StrictProtocol", received: bytes) -> None:
        while data := received or await self._link.receive():
            received = b""
            if self._phase == "body":
                self._link.reading.deadline = self._body_deadline  # now it is the application that is waited for
            await protocol.handle(RawData(data))
            if self._phase == "idle" and protocol.head_begun:
                self._enter("head")
            if self._phase == "body":
                self._await_body()

    async def _time_out(self, protocol: "_StrictProtocol") -> None:
        if self._phase == "body":
            await self.refuse(408, "request_timeout", "The request body did not arrive in time.")
            return
        if self._phase == "head" and protocol.head_begun:
            await self.refuse(408, "request_timeout", "The request head did not arrive in time.")

    def _enter(self, phase: Phase) -> None:
        self._phase = phase
        if phase == "head":
            self._link.allow(self._limits.head_timeout_s)
        elif phase == "idle":
            self._link.allow(self._limits.idle_timeout_s)
        elif phase == "body":
            self._body_deadline = trio.current_time() + self._limits.body_total_timeout_s
            self._await_body()
        else:
            self._link.reading.deadline = float("inf")  # the application's turn; the client owes nothing

    def _await_body(self) -> None:
        idle = trio.current_time() + self._limits.body_idle_timeout_s
        self._link.reading.deadline = min(idle, self._body_deadline)

    def _leave_calls(self) -> None:
        for call in self._calls:
            call.leave(self._limits.leave_s)

    def begin_call(self, asgi_scope: Any) -> RunningRequest:
        """Note a new request as the one whose body and answer are due."""
        call = RunningRequest(asgi_scope)
        self._current = call
        self._calls.add(call)
        return call

    async def put(self, call: RunningRequest, message: Message) -> None:
        """Pass a message from the client to its call."""
        if call is self._current and self._phase == "body" and not message.get("more_body", True):
            self._enter("running")
        await call.put(message)

    async def send(self, call: RunningRequest, to_stream: SendToStream, message: Message) -> None:
        """Pass a message from a call to its client; into the void when there is none any more."""
        if call.closed:
            await trio.lowlevel.checkpoint()
            return
        await to_stream(message)

    async def call(self, app: AsgiApp, scope: Any, call: RunningRequest, to_stream: SendToStream) -> None:
        """Make one ASGI call. What it raises ends here, and an answer it did not finish ends the connection."""
        try:
            with call.scope:
                await app(scope, call.receive, partial(self.send, call, to_stream))
        except* CONTAINED as group:
            self._on_crash(group)
        finally:
            self._calls.discard(call)
        if call.closed:
            return
        if call.scope.cancelled_caught:
            await self.refuse(503, "shutting_down", "The gateway is stopping; try again in a moment.")
            return
        await self.refuse(500, "internal_error", "The gateway failed to answer this request.")

    async def on_event(self, event: Event, our_state: object) -> None:
        """Do what hypercorn's protocol asks of the connection."""
        if isinstance(event, RawData):
            if self._current is not None and our_state not in {h11.IDLE, h11.SEND_RESPONSE}:
                self._current.begun = True
            await self._link.write(event.data)
        elif isinstance(event, Closed):
            self._link.close_soon()
        elif isinstance(event, Updated):
            self._turn(idle=event.idle)

    def _turn(self, *, idle: bool) -> None:
        if not idle:
            self._enter("body")
            return
        self._enter("idle")
        if self._draining:
            self._link.close_soon()


class _Calls:
    """Hypercorn's TaskGroup, as far as its HTTP/1.1 protocol uses it."""

    def __init__(self, conversation: H11Conversation, nursery: trio.Nursery) -> None:
        self._conversation = conversation
        self._nursery = nursery

    async def spawn_app(
        self, app: AppWrapper, config: Config, scope: Any, send: SendToStream
    ) -> Callable[[Message], Awaitable[None]]:
        call = self._conversation.begin_call(scope)
        scope["extensions"][CALL_WHEN_LEFT] = call.call_when_left
        self._nursery.start_soon(self._conversation.call, cast("AsgiApp", app), scope, call, send)
        return partial(self._conversation.put, call)


class _StrictProtocol(H11Protocol):
    """H11Protocol with strict heads, refusals in the gateway's words, and `connection: close` when it is true."""

    def __init__(self, conversation: H11Conversation, link: Link, config: Config, calls: _Calls) -> None:
        super().__init__(
            cast("AppWrapper", conversation._app),
            config,
            WorkerContext(None),
            cast("TaskGroup", calls),
            ConnectionState({}),
            link.tls,
            link.peer,
            link.local,
            self._to_connection,
        )
        self._conversation = conversation
        self._strict = StrictConnection(
            max_head_bytes=link.limits.max_head_bytes, max_header_fields=link.limits.max_header_fields
        )
        self.connection = self._strict
        self._holds_head = False
        self._head = b""

    @property
    def head_begun(self) -> bool:
        return self._strict.head_begun

    @property
    def bytes_waiting(self) -> bool:
        return bool(self._strict.trailing_data[0])

    async def stream_send(self, event: StreamEvent) -> None:
        if isinstance(event, Response) and self._conversation.last_answer:
            headers = [field for field in event.headers if field[0].lower() != b"connection"]
            event = Response(event.stream_id, [*headers, (b"connection", b"close")], event.status_code)
        if isinstance(event, Response) and event.status_code >= 200:
            self._holds_head = any(name.lower() == b"content-length" for name, _ in event.headers)
        await super().stream_send(event)

    async def _to_connection(self, event: Event) -> None:
        """Send on; but the head of an answer of known length goes out with the body that follows, in one packet."""
        if self._holds_head and isinstance(event, RawData):
            self._holds_head = False
            self._head = event.data
            return
        head, self._head = self._head, b""
        if head and isinstance(event, RawData) and len(event.data) <= PIECE_BYTES:
            event = RawData(head + event.data)
        elif head:
            await self._conversation.on_event(RawData(head), self._strict.our_state)
        await self._conversation.on_event(event, self._strict.our_state)

    async def _send_error_response(self, status_code: int) -> None:
        fault = self._strict.fault
        if fault is not None:
            await self._conversation.refuse(fault.status, fault.code, fault.message)
            return
        await self._conversation.refuse(status_code, "bad_request", "The request could not be parsed.")
