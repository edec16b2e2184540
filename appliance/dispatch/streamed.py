"""Streamed: a whole chat completion that is asked for as a stream, so that whoever leaves ends it at the backend too.

Model servers notice that a stream has lost its reader as they write the next token. Many compute a whole answer to its
end, whoever has hung up, and its slot would come back while they still do.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from appliance.backends.base import LanguageCall, WholeSource
from appliance.dispatch.dispatch import Dispatcher
from appliance.dispatch.language import LanguageJob, deadlines, with_usage
from appliance.protocol.canonical import compact_json
from appliance.protocol.chat_whole import WholeReader
from appliance.protocol.errors import GatewayError, UpstreamFailed
from appliance.protocol.ids import NewId
from appliance.upstream.deadlines import timeout_error
from appliance.upstream.exchange import MAX_JSON_BYTES

# At 250 bytes for an event of one token: a quarter million of them, which an agent's transcript keeps.
MAX_EVENTS_BYTES = 4 * MAX_JSON_BYTES

_STREAM = re.compile(r"\bstream", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Streamed:
    """A streamed answer, all of it. `completion`: the chat completion that its events make.

    `whole`: the body of a server that did not stream though it was asked to; the events were made of that.
    """

    completion: Mapping[str, Any]
    whole: bytes | None = None


def _forget(_: bytes) -> None:
    return


async def answer_by_stream(
    dispatcher: Dispatcher, job: LanguageJob, new_id: NewId, *, on_received: Callable[[bytes], None] = _forget
) -> Streamed:
    """What `dispatch.language.answer` gives, for a job whose body asks for a stream, its usage included.

    `on_received` is told the event stream as the backend gives it, read by read, up to the end of the event `[DONE]`, or
    of the body where there is none: however it is cut into reads, these bytes joined are the same. Raises
    UpstreamTimeout, UpstreamFailed: also where the stream ends before its answer does.
    """
    call = _with_deadlines(dispatcher, job.call)
    reader = WholeReader(call.backend_class.name, new_id)
    received = 0
    whole: bytes | None = None
    came_to_end = False
    with dispatcher.protect(call.backend_class, call.total_s):
        async with job.backend.stream(call, dispatcher.upstream) as source:
            while not reader.done and (piece := await source.receive()):
                received += len(piece)
                if received > MAX_EVENTS_BYTES:
                    raise _too_much(call, MAX_EVENTS_BYTES)
                on_received(reader.feed(piece))
            if isinstance(source, WholeSource):
                whole = source.answer
        came_to_end = True
    if not came_to_end:  # what protects a call that is to be finished has its end too
        raise timeout_error(call.backend_class.name, "total", call.total_s)
    completion = reader.finish()
    if received > MAX_JSON_BYTES and len(compact_json(completion)) > MAX_JSON_BYTES:
        raise _too_much(call, MAX_JSON_BYTES)
    return Streamed(completion, whole)


def as_stream(job: LanguageJob) -> LanguageJob:
    """An admitted job for a whole answer, as one that asks for a stream of it."""
    return replace(job, call=replace(job.call, body=with_usage(job.call.body), raw=None))


def as_whole(dispatcher: Dispatcher, job: LanguageJob, body: Mapping[str, Any], raw: bytes) -> LanguageJob:
    """An admitted job for a stream, as one that asks for a whole answer, by this body."""
    first_byte_s, total_s = deadlines(dispatcher.settings, stream=False)
    return replace(job, call=replace(job.call, body=body, raw=raw, first_byte_s=first_byte_s, total_s=total_s))


def refuses_streams(error: GatewayError) -> bool:
    """Whether a server says, by a status, that this cannot be streamed: some cannot where tools are offered."""
    return (
        isinstance(error, UpstreamFailed)
        and error.extra.get("status") is not None
        and bool(_STREAM.search(f"{error.message} {error.extra.get('body', '')}"))
    )


def _with_deadlines(dispatcher: Dispatcher, call: LanguageCall) -> LanguageCall:
    """In all it may take as long as a whole answer, since somebody waits for all of it.

    Silence is bounded as in any stream; but where tools are offered, servers hold a tool call back until they have all
    of it, some the text too, so there silence is no stall, and the answer's own deadline is the only one.
    """
    first_byte_s, _ = deadlines(dispatcher.settings, stream=True)
    _, total_s = deadlines(dispatcher.settings, stream=False)
    if call.body.get("tools"):
        return replace(call, first_byte_s=total_s, idle_s=total_s, total_s=total_s)
    return replace(call, first_byte_s=min(first_byte_s, total_s), total_s=total_s)


def _too_much(call: LanguageCall, limit: int) -> UpstreamFailed:
    name = call.backend_class.name
    return UpstreamFailed(f"{name} streamed more than {limit} bytes for one answer.", upstream=name)
