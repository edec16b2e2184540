"""Running: an agent's run as an answer, whole when it has ended, or event by event while it happens."""

from collections.abc import Mapping, Sequence
from typing import Any

import trio

from appliance.agents.agents import Agents, ReadyRun
from appliance.agents.runner import AgentRun
from appliance.agents.transcript import Head, transcript_json
from appliance.protocol.errors import GatewayError
from appliance.protocol.sse import PING
from appliance.protocol.streams import error_event
from appliance.server.exchange import Answer, SendPiece
from appliance.server.relay import PING_INTERVAL_S, SSE_HEADERS, SSE_TYPE
from appliance.server.routing_headers import routing_headers
from appliance.server.visit import Visit
from appliance.storage.run_sink import RunSink


async def serve_run(agents: Agents, visit: Visit, ready: ReadyRun, *, stream: bool) -> Answer:
    """Take a place among the runs, then carry the run out. Raises AgentsBusy, StorageFull before anything happens.

    All that the run holds is on the visit's stack: when a client leaves, its end is written as the stack closes.
    """
    head = ready.head
    visit.model = head.routed.upstream_model
    await visit.stack.enter_async_context(agents.admission.hold(head.run_id, head.routed.backend, head.spec.tier))
    sink = _Shown(visit.stack.enter_context(agents.store.begin(head.run_id)))
    run = await visit.stack.enter_async_context(agents.begin(ready, sink))
    if stream:
        return _stream(visit, run, sink)
    await run.carry_out()
    return Answer(transcript_json(sink.lines), headers=_headers(head))


def _stream(visit: Visit, run: AgentRun, sink: "_Shown") -> Answer:
    async def write(send: SendPiece) -> None:
        visit.events = True
        failure = await _carry_out_and_show(run, sink, send)
        if failure is not None:
            visit.error_code = failure.code
            await send(error_event(failure))

    return Answer(write, content_type=SSE_TYPE, headers={**SSE_HEADERS, **_headers(run.head)})


async def _carry_out_and_show(run: AgentRun, sink: "_Shown", send: SendPiece) -> GatewayError | None:
    """The run in one task, its events, or pings in silence, to the client in this one."""
    failures: list[GatewayError] = []

    async def carry_out() -> None:
        try:
            await run.carry_out()
        except GatewayError as error:  # carried past the nursery, which would wrap it in a group
            failures.append(error)
        finally:
            sink.close()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(carry_out)
        await sink.show(send)
    return failures[0] if failures else None


class _Shown:
    """A run's sink whose events can be shown as soon as they are kept.

    A client that reads slowly does not slow the run: the lines are kept for it, as they are for an answer in one piece.
    """

    def __init__(self, sink: RunSink) -> None:
        self._sink = sink
        self._kinds: list[str] = []
        self._closed = False
        self._changed = trio.Event()

    @property
    def lines(self) -> Sequence[bytes]:
        """What was kept, the stored bytes."""
        return self._sink.lines

    async def append(self, fields: Mapping[str, Any]) -> None:
        await self._sink.append(fields)
        self._kinds.append(fields["type"])
        self._wake()

    def close(self) -> None:
        """No more events come."""
        self._closed = True
        self._wake()

    async def show(self, send: SendPiece) -> None:
        """Send every event, from the first, until there are no more."""
        shown = 0
        while shown < len(self._kinds) or not self._closed:
            if shown == len(self._kinds):
                with trio.move_on_after(PING_INTERVAL_S) as silence:
                    await self._changed.wait()
                if silence.cancelled_caught:
                    await send(PING)
                continue
            kind, line = self._kinds[shown].encode("ascii"), self.lines[shown]
            await send(b"event: %b\ndata: %b\n\n" % (kind, line))
            shown += 1

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


def _headers(head: Head) -> Mapping[str, str]:
    return routing_headers(head.routed.backend, head.routed.upstream_model, head.routed.reason)
