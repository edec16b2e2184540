"""Gateway: the outermost ASGI layer. One visit, one exit stack, one answer and one journal line for each request."""

import json
from collections.abc import Callable, Mapping
from typing import Any

import trio

from appliance.admission.grace import Grace
from appliance.protocol.error_answers import error_body, error_headers
from appliance.protocol.errors import GatewayError, InternalError, ShuttingDown
from appliance.protocol.ids import NewId
from appliance.protocol.streams import error_event
from appliance.server.access import Access, BodyLimit, Head
from appliance.server.connection_requests import DIRECT_CALL, DirectCall
from appliance.server.direct import ClientLeft, RouteTable, serve_direct
from appliance.server.exchange import DirectRoutes
from appliance.server.sending import Sender
from appliance.server.visit import SCOPE_KEY, OnFinished, Visit, VisitStack
from appliance.telemetry.log import Log

Receive = Callable[[], Any]
Send = Callable[[Any], Any]

LAST_WORD_S = 1.0  # for a client that has to be told that we are going
_NO_LIMIT = BodyLimit(0)  # until it is known who asks
CLEANUP_MARGIN_S = 5.0  # on top of what a backend may take to become idle


class Gateway:
    """The ASGI application of one listener: its routes, and what holds for all of them. `access` may be replaced at any
    time (a reload).

    `is_open(head, query)` names the requests that need no token here. `body_limits`: of paths that have their own.
    `on_finished` gets each visit when all that it held has been given back.
    """

    def __init__(
        self,
        routes: DirectRoutes,
        *,
        access: Access,
        is_open: Callable[[Head, bytes], bool],
        grace: Grace,
        cleanup_s: float,
        on_finished: OnFinished,
        body_limits: Mapping[str, BodyLimit],
        log: Log,
        new_id: NewId,
    ) -> None:
        self.access = access
        self._routes = RouteTable(routes)
        self._is_open = is_open
        self._grace = grace
        self._cleanup_s = cleanup_s + CLEANUP_MARGIN_S
        self._on_finished = on_finished
        self._body_limits = body_limits
        self._log = log
        self._new_id = new_id
        self._visits: set[Visit] = set()

    @property
    def routes(self) -> DirectRoutes:
        """What is served here."""
        return self._routes.routes

    def stop_visits(self) -> None:
        """The drain time is over: what still runs is cut off, and told so where it can be."""
        for visit in list(self._visits):
            visit.scope.cancel()

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"the listener lets no {scope['type']} through")
        call: DirectCall | None = scope["extensions"].get(DIRECT_CALL)
        # A cancel scope costs 6 us. Where the connection's own will do, because it ends with the request, it is used.
        cancel_scope = trio.CancelScope() if call is None else call.scope
        visit = Visit(self._new_id("req"), scope["method"], scope["path"], trio.current_time(), cancel_scope)
        scope[SCOPE_KEY] = visit
        self._visits.add(visit)
        sender = Sender(visit, send, call)
        try:
            if call is not None:
                await self._serve_in_connection(visit, scope, _Receiver(visit, receive, call), sender)
            else:
                await self._serve_in_scope(visit, scope, _Receiver(visit, receive, None), sender)
        finally:
            if visit.held is not None:
                await self._close(visit, visit.held)  # noqa: ASYNC102 -- shielded where something in it waits
            self._visits.discard(visit)
            self._on_finished(visit)

    async def _serve_in_scope(self, visit: Visit, scope: Any, receive: "_Receiver", sender: Sender) -> None:
        with visit.scope:
            await self._serve(visit, scope, receive, sender)
        if visit.scope.cancelled_caught and not visit.left:
            await answer_error(visit, ShuttingDown(), sender)

    async def _serve_in_connection(self, visit: Visit, scope: Any, receive: "_Receiver", sender: Sender) -> None:
        """The scope goes on when the request is over, and what cancels the request ends the connection."""
        try:
            await self._serve(visit, scope, receive, sender)
        except (trio.Cancelled, BaseExceptionGroup):
            if visit.scope.cancel_called and not visit.left:
                with self._grace.shield(LAST_WORD_S):
                    await answer_error(visit, ShuttingDown(), sender)  # noqa: ASYNC102 -- the shield has its deadline
            raise

    async def _serve(self, visit: Visit, scope: Any, receive: "_Receiver", sender: Sender) -> None:
        """Let the request in, route it, and answer it with the error that came of that, if one did."""
        error: GatewayError | None = None
        try:
            head = _head_of(scope)
            receive.limit = self._admit(visit, head, scope["query_string"])
            found = self._routes.find(visit.path)
            await serve_direct(visit, found, head, scope, receive, sender)
        except ClientLeft:
            return
        except GatewayError as refused:
            error = refused
        except BaseExceptionGroup as group:
            cancelled, rest = group.split(trio.Cancelled)
            if cancelled is not None or rest is None or not isinstance(rest, ExceptionGroup):
                raise
            error = self._explain(visit, rest)
        except Exception as fault:  # noqa: BLE001 -- the outermost border of a request
            error = self._explain(visit, fault)
        if error is not None:
            await answer_error(visit, error, sender)

    def _admit(self, visit: Visit, head: Head, query: bytes) -> BodyLimit:
        visit.peer = head.peer
        visitor = self.access.admit(
            head, is_open=self._is_open(head, query), body_limit=self._body_limits.get(head.path)
        )
        visit.peer = visitor.peer
        visit.token = visitor.token
        visit.base_url = visitor.base_url
        return visitor.body_limit

    def _explain(self, visit: Visit, fault: Exception) -> GatewayError:
        """The error to answer with: the one that was raised on purpose, else ours, in the log with its reason."""
        for inner in _leaves(fault):
            if isinstance(inner, GatewayError):
                return inner
        log_fault(self._log, visit.request_id, fault)
        return InternalError()

    async def _close(self, visit: Visit, held: VisitStack) -> None:
        """Give back what the request held, by a deadline that neither its client nor a stop can move."""
        if not held.waits:
            await self._close_stack(visit, held)
            return
        with self._grace.shield(self._cleanup_s):
            await self._close_stack(visit, held)

    async def _close_stack(self, visit: Visit, held: VisitStack) -> None:
        try:
            await held.aclose()
        except Exception as fault:  # noqa: BLE001 -- one request's clean-up must not end the connection's others
            log_fault(self._log, visit.request_id, fault)


class _Receiver:
    """The request's body under its size limit; afterwards, the client's leaving. The listener keeps the time."""

    def __init__(self, visit: Visit, receive: Receive, call: DirectCall | None) -> None:
        self._visit = visit
        self._receive = receive
        self._call = call
        self.limit = _NO_LIMIT

    async def __call__(self) -> Any:
        message = await self._receive()
        if message["type"] == "http.request":
            self._count(len(message.get("body", b"")))
        else:
            self._visit.note_disconnect(trio.current_time())
        return message

    def take_nowait(self) -> bytes | None:
        """The whole body if it is there; else, and if a part was taken, it comes by messages."""
        body = self._call.take_body_nowait() if self._call is not None else None
        if body:
            self._count(len(body))
        return body

    def _count(self, size: int) -> None:
        self._visit.bytes_in += size
        if self.limit.max_bytes and self._visit.bytes_in > self.limit.max_bytes:
            raise self.limit.error()


def _head_of(scope: Any) -> Head:
    return Head(
        method=scope["method"],
        path=scope["path"],
        scheme=scope["scheme"],
        headers=scope["headers"],
        peer=(scope.get("client") or ("127.0.0.1", 0))[0],
        local=(scope.get("server") or ("127.0.0.1", 0))[0],
    )


async def answer_error(visit: Visit, error: GatewayError, send: Sender) -> None:
    """Answer with this error. Where an answer has begun, a stream of events gets it as its last event; anything else
    is cut, and the connection's end says so."""
    visit.error_code = error.code
    if visit.status is not None:
        if visit.events and not visit.sending and not visit.answered:
            await send({"type": "http.response.body", "body": error_event(error), "more_body": False})
        return
    body = json.dumps(error_body(error), separators=(",", ":")).encode()
    headers: Mapping[str, str] = {
        "content-type": "application/json",
        **error_headers(error),
    }
    raw = [(key.encode("latin-1"), value.encode("latin-1")) for key, value in headers.items()]
    await send.whole(error.status, raw, body)


def log_fault(log: Log, request_id: str, fault: BaseException) -> None:
    """Log an exception nobody meant: its kind and the place, never its text, which may hold what was asked."""
    place = fault.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    where = f"{place.tb_frame.f_code.co_qualname}:{place.tb_lineno}" if place is not None else "unknown"
    kinds = sorted({type(inner).__name__ for inner in _leaves(fault)})
    log("request_failed", level="error", request_id=request_id, kinds=kinds, where=where)


def _leaves(fault: BaseException) -> list[BaseException]:
    if not isinstance(fault, BaseExceptionGroup):
        return [fault]
    return [leaf for inner in fault.exceptions for leaf in _leaves(inner)]
