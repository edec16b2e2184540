"""Tool chats: chat and responses with `X-Gateway-Tools: run`, whose tool calls the gateway runs itself."""

import json
import time
from collections.abc import Mapping

import trio

from appliance.agents.chat_tools import ToolChat, Turn
from appliance.backends.base import ByteSource
from appliance.components import Components
from appliance.protocol.canonical import compact_json
from appliance.protocol.errors import GatewayError, InvalidRequest
from appliance.protocol.language import LanguageKind, LanguageRequest, parse_language_request
from appliance.protocol.responses import from_chat, to_chat
from appliance.protocol.responses_filter import TranslatedResponses
from appliance.protocol.responses_stream import ResponsesStream
from appliance.protocol.streams import PassThrough, StreamFilter, usage_in
from appliance.server.callers import tool_caller
from appliance.server.exchange import Answer, Request, SendPiece
from appliance.server.relay import SSE_HEADERS, SSE_TYPE, relay_events
from appliance.server.routing_headers import routing_headers

HEADER = "X-Gateway-Tools"
_HEADER_NAME = HEADER.lower().encode()
PIECES_WAITING = 8  # a client that reads slowly slows the model down, not the gateway's memory up

_KINDS: frozenset[LanguageKind] = frozenset({"chat", "responses"})


def wants_gateway_tools(request: Request, kind: LanguageKind) -> bool:
    """Whether the gateway is to run tools. Raises InvalidRequest where it cannot."""
    value = request.header(_HEADER_NAME)
    if value is None:
        return False
    if value.strip().lower() != "run":
        raise InvalidRequest(f"{HEADER} must be `run`, or left out.", param=HEADER)
    if kind not in _KINDS:
        raise InvalidRequest(f"{kind} calls no tools: leave the header {HEADER} out.", param=HEADER)
    return True


async def serve_with_tools(components: Components, request: Request, wanted: LanguageRequest) -> Answer:
    """Admit the first model call, then answer or stream. Raises GatewayError until the first byte."""
    visit = request.visit
    chat = ToolChat(
        dispatcher=components.dispatcher,
        bus=components.toolbus,
        grace=components.grace,
        tools=tool_caller(visit),
        request_id=visit.request_id,
        on_lease=visit.note_lease,
        wait_s=components.settings.agent_queue_timeout_sec,
        new_id=components.new_id,
    )
    turn = chat.begin(
        _as_chat(wanted), x_backend=request.header(b"x-backend"), request_type=request.header(b"x-request-type")
    )
    visit.stack.push_async_callback(turn.stack.aclose)
    visit.model = turn.job.call.model
    if wanted.stream:
        return _stream(components, request, wanted, chat, turn)
    body = await chat.answer(turn)
    _note_usage(components, turn, body)
    if wanted.kind == "responses":
        response = from_chat(json.loads(body), wanted.body, new_id=components.new_id, created=int(time.time()))
        body = compact_json(response)
    return Answer(body, headers=_headers(turn))


def _stream(components: Components, request: Request, wanted: LanguageRequest, chat: ToolChat, turn: Turn) -> Answer:
    visit = request.visit

    async def write(send: SendPiece) -> None:
        visit.events = True
        events = _filter(components, wanted, turn)

        def note_error(error: GatewayError) -> None:
            visit.error_code = error.code

        sending, receiving = trio.open_memory_channel[bytes | GatewayError](PIECES_WAITING)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_run, chat, turn, sending)
            async with receiving:
                await relay_events(_Pieces(receiving), events, send, on_error=note_error)
                nursery.cancel_scope.cancel()
        if events.usage is not None:
            name = turn.job.call.backend_class.name
            components.metrics.note_tokens(name, events.usage.prompt_tokens, events.usage.completion_tokens)

    return Answer(write, content_type=SSE_TYPE, headers={**SSE_HEADERS, **_headers(turn)})


async def _run(chat: ToolChat, turn: Turn, sending: trio.MemorySendChannel[bytes | GatewayError]) -> None:
    """The chat in a task of its own: a ping that is due must not cut off a tool. Errors travel as what they are."""
    with sending:
        try:
            await chat.stream(turn, sending.send)
        except GatewayError as error:
            await sending.send(error)


class _Pieces(ByteSource):
    """What the chat's task sends, as a stream that can be waited for in pieces."""

    def __init__(self, receiving: trio.MemoryReceiveChannel[bytes | GatewayError]) -> None:
        self._receiving = receiving

    async def receive(self) -> bytes:
        try:
            piece = await self._receiving.receive()
        except trio.EndOfChannel:
            return b""
        if isinstance(piece, GatewayError):
            raise piece
        return piece


def _as_chat(wanted: LanguageRequest) -> LanguageRequest:
    if wanted.kind == "chat":
        return wanted
    body = to_chat(wanted.body)
    return parse_language_request("chat", body, compact_json(body))


def _filter(components: Components, wanted: LanguageRequest, turn: Turn) -> StreamFilter:
    upstream = turn.job.call.backend_class.name
    if wanted.kind == "chat":
        return PassThrough(upstream)
    model = turn.job.call.model
    stream = ResponsesStream(wanted.body, new_id=components.new_id, created=int(time.time()), model=model)
    return TranslatedResponses(stream, upstream)


def _note_usage(components: Components, turn: Turn, body: bytes) -> None:
    if (usage := usage_in(body)) is not None:
        name = turn.job.call.backend_class.name
        components.metrics.note_tokens(name, usage.prompt_tokens, usage.completion_tokens)


def _headers(turn: Turn) -> Mapping[str, str]:
    return routing_headers(turn.job.call.backend_class.name, turn.job.call.model, turn.job.route.reason)
