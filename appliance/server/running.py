"""Running: an agent's run as an answer, whole when it has ended, or event by event while it happens."""

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import trio

from appliance.agents.agents import Agents, ReadyRun
from appliance.agents.transcript import Head, transcript_json
from appliance.protocol.errors import GatewayError
from appliance.protocol.sse import PING
from appliance.protocol.streams import error_event
from appliance.server.exchange import Answer, SendPiece
from appliance.server.relay import PING_INTERVAL_S, SSE_HEADERS, SSE_TYPE
from appliance.server.routing_headers import routing_headers
from appliance.server.visit import Visit
from appliance.storage.runs import RunSink

EVENTS_WAITING = 8  # a client that reads slowly slows the run, until the listener cuts it


async def serve_run(agents: Agents, visit: Visit, run: ReadyRun, *, stream: bool) -> Answer:
    """Take a place among the runs, then carry the run out. Raises AgentsBusy, StorageFull before anything happens."""
    head = run.head
    visit.model = head.routed.upstream_model
    await visit.stack.enter_async_context(agents.admission.hold(head.run_id, head.routed.backend, head.spec.tier))
    sink = visit.stack.enter_context(await agents.store.begin(head.run_id))
    if stream:
        return _stream(agents, visit, run, sink)
    await agents.carry_out(run, sink)
    return Answer(transcript_json(sink.lines), headers=_headers(head))


def _stream(agents: Agents, visit: Visit, run: ReadyRun, sink: RunSink) -> Answer:
    async def write(send: SendPiece) -> None:
        visit.events = True
        failure = await _carry_out_and_show(agents, run, sink, send)
        if failure is not None:
            visit.error_code = failure.code
            await send(error_event(failure))

    return Answer(write, content_type=SSE_TYPE, headers={**SSE_HEADERS, **_headers(run.head)})


async def _carry_out_and_show(agents: Agents, run: ReadyRun, sink: RunSink, send: SendPiece) -> GatewayError | None:
    """The run in one task, its events, or pings in silence, to the client in this one."""
    shown, events = trio.open_memory_channel[bytes](EVENTS_WAITING)
    failures: list[GatewayError] = []

    async def carry_out() -> None:
        with shown:
            try:
                await agents.carry_out(run, _Shown(sink, shown))
            except GatewayError as error:  # carried past the nursery, which would wrap it in a group
                failures.append(error)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(carry_out)
        with events:
            await _relay(events, send)
    return failures[0] if failures else None


async def _relay(events: trio.MemoryReceiveChannel[bytes], send: SendPiece) -> None:
    while True:
        piece = PING
        with trio.move_on_after(PING_INTERVAL_S):
            try:
                line = await events.receive()
            except trio.EndOfChannel:
                return
            piece = b"event: %b\ndata: %b\n\n" % (json.loads(line)["type"].encode("ascii"), line)
        await send(piece)


class _Shown:
    """A run's sink that shows each event once it is kept."""

    def __init__(self, sink: RunSink, shown: trio.MemorySendChannel[bytes]) -> None:
        self._sink = sink
        self._shown = shown

    async def append(self, fields: Mapping[str, Any]) -> None:
        await self._sink.append(fields)
        with suppress(trio.BrokenResourceError):  # nobody is there to see it
            await self._shown.send(self._sink.lines[-1])


def _headers(head: Head) -> Mapping[str, str]:
    return routing_headers(head.routed.backend, head.routed.upstream_model, head.routed.reason)
