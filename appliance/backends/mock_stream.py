"""Time and failures of the scripted model: its pieces with their pauses, where it breaks off, where it falls silent."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import trio

from appliance.backends.base import LanguageCall
from appliance.config.mock_script import Answer, Failure
from appliance.protocol.canonical import compact_json
from appliance.protocol.errors import GatewayError, UpstreamFailed
from appliance.upstream.deadlines import Phase, timeout_error
from appliance.upstream.exchange import UpstreamAnswer
from appliance.upstream.failures import failure_from_answer

ONE_READ_BYTES = 64 * 1024  # pieces without a delay between them come as one read, as from a socket


@dataclass(frozen=True, slots=True)
class _Step:
    """One piece of a stream, after a delay; or its failure; or, with no data, its end."""

    delay_s: float
    data: bytes = b""
    failure: GatewayError | None = None


_END = _Step(0.0)


class ScriptedStream:
    """A ByteSource: a receive that is cancelled keeps what it was waiting for, and since when."""

    def __init__(self, steps: Iterator[_Step], call: LanguageCall) -> None:
        self._steps = steps
        self._call = call
        self._phase: Phase = "first byte"
        self._limit_s = call.first_byte_s
        self._step: _Step | None = None
        self._due = math.nan
        self._end = trio.current_time() + call.total_s

    async def receive(self) -> bytes:
        step = self._step or next(self._steps, _END)
        if math.isnan(self._due):
            self._due = trio.current_time() + min(step.delay_s, self._limit_s)
        self._step = step
        if step.delay_s:
            await trio.sleep_until(min(self._due, self._end))
        else:
            await trio.lowlevel.checkpoint()
        if self._due > self._end:
            raise timeout_error(self._call.backend_class.name, "total", self._call.total_s)
        if step.delay_s > self._limit_s:
            raise timeout_error(self._call.backend_class.name, self._phase, self._limit_s)
        if step.failure is not None:
            raise step.failure
        if not step.data:
            return b""
        self._phase, self._limit_s, self._due = "idle", self._call.idle_s, math.nan
        return step.data + self._what_is_ready(len(step.data))

    def _what_is_ready(self, size: int) -> bytes:
        pieces = []
        self._step = None
        while size < ONE_READ_BYTES:
            step = next(self._steps, _END)
            if step.delay_s or not step.data:
                self._step = step
                break
            pieces.append(step.data)
            size += len(step.data)
        return b"".join(pieces)


def pace(events: Iterator[bytes], answer: Answer, call: LanguageCall) -> Iterator[_Step]:
    for index, event in enumerate(events):
        delay_s = answer.chunk_delay_s if index else answer.first_byte_delay_s
        if index == answer.break_after_chunks:
            yield _Step(delay_s, failure=_broke_off(call))
        if index == answer.stall_after_chunks:
            delay_s = math.inf
        yield _Step(delay_s, event)


async def wait_for_all(answer: Answer, events: int, call: LanguageCall) -> None:
    """A whole answer takes as long as its stream would."""
    if answer.fail is not None:
        await fail(answer, answer.fail, call)
    stalls = answer.stall_after_chunks is not None and answer.stall_after_chunks < events
    breaks = answer.break_after_chunks is not None and answer.break_after_chunks < events
    pauses = (answer.break_after_chunks or 0) if breaks else events - 1
    delay_s = math.inf if stalls else answer.first_byte_delay_s + pauses * answer.chunk_delay_s
    await _sleep(delay_s, call)
    if breaks:
        raise _broke_off(call)


async def fail(answer: Answer, failure: Failure, call: LanguageCall) -> None:
    """Raise what a backend's HTTP error would become."""
    await _sleep(answer.first_byte_delay_s, call)
    body = compact_json({"error": {"message": failure.message, "type": "scripted_error", "param": None, "code": None}})
    retry_after = None if failure.retry_after_s is None else str(failure.retry_after_s)
    said = UpstreamAnswer(failure.status, "application/json", retry_after, body, 0.0)
    raise failure_from_answer(said, upstream=call.backend_class.name)


async def _sleep(delay_s: float, call: LanguageCall) -> None:
    limit_s = min(call.first_byte_s, call.total_s)
    await trio.sleep(min(delay_s, limit_s))
    if delay_s > limit_s:
        raise timeout_error(call.backend_class.name, "first byte", limit_s)


def _broke_off(call: LanguageCall) -> UpstreamFailed:
    name = call.backend_class.name
    return UpstreamFailed(f"{name} broke off its answer, as its script says.", upstream=name)
