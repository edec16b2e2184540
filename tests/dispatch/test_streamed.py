"""Streamed answers: put together within the deadlines and caps of a whole one, and ended with whoever asked."""

import json
import math
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from appliance.backends.base import ByteSource, LanguageBackend, LanguageCall, ModelEntry
from appliance.config.classes import BackendClass
from appliance.dispatch.dispatch import Dispatcher
from appliance.dispatch.language import LanguageJob, answer
from appliance.dispatch.routing import LanguageRoute
from appliance.dispatch.streamed import answer_by_stream, as_stream, as_whole, refuses_streams
from appliance.protocol.errors import GatewayError, UpstreamFailed, UpstreamTimeout
from appliance.protocol.ids import new_id
from appliance.protocol.language import LanguageKind
from appliance.protocol.sse import DONE, sse_event
from appliance.upstream.client import UpstreamClient
from appliance.upstream.exchange import UpstreamAnswer
from appliance.upstream.failures import failure_from_answer
from tests.backends.language import language_call, language_class
from tests.house import open_house

TOOLS = [{"type": "function", "function": {"name": "noop"}}]
Wait = Callable[[], Any]


def said(text: str) -> bytes:
    return sse_event(json.dumps({"choices": [{"delta": {"content": text}}]}))


@dataclass
class Backend(LanguageBackend):
    """Streams these pieces, waiting for `gates` before it opens and before each: (opening, each piece)."""

    pieces: Iterator[bytes] = field(default_factory=lambda: iter([said("Hello"), DONE]))
    opening: Wait = trio.lowlevel.checkpoint
    receiving: Wait = trio.lowlevel.checkpoint
    calls: list[LanguageCall] = field(default_factory=list)
    open: int = 0

    def kinds(self, backend_class: BackendClass) -> frozenset[LanguageKind]:
        return frozenset({"chat"})

    async def answer(self, call: LanguageCall, upstream: UpstreamClient) -> bytes:
        await self.receiving()
        return b"{}"

    async def list_models(
        self, backend_class: BackendClass, upstream: UpstreamClient, timeout_s: float
    ) -> tuple[ModelEntry, ...]:
        raise NotImplementedError

    @asynccontextmanager
    async def stream(self, call: LanguageCall, upstream: UpstreamClient) -> AsyncIterator[ByteSource]:
        self.calls.append(call)
        await self.opening()
        self.open += 1
        try:
            yield self
        finally:
            self.open -= 1

    async def receive(self) -> bytes:
        await self.receiving()
        return next(self.pieces, b"")


def job_of(backend: Backend, *, finish: bool = False, **fields: Any) -> LanguageJob:
    backend_class = language_class("http://h", on_disconnect="finish" if finish else "abort")
    call = replace(language_call(backend_class=backend_class, **fields), total_s=math.inf)
    return as_stream(LanguageJob(call, LanguageRoute("gpu", "small", "x", None), backend, translated=False))


@pytest.fixture
async def dispatcher(tmp_path: Path) -> AsyncIterator[Dispatcher]:
    settings = {"BACKEND_FIRST_BYTE_TIMEOUT_SEC": "5", "BACKEND_IDLE_TIMEOUT_SEC": "30"}
    async with open_house(tmp_path, BACKEND_ANSWER_TIMEOUT_SEC="100", **settings) as house:
        yield house.components.dispatcher


async def test_the_stream_is_asked_for_with_its_usage_and_put_together(dispatcher: Dispatcher) -> None:
    backend = Backend()
    whole = (await answer_by_stream(dispatcher, job_of(backend), new_id)).completion
    assert whole["choices"][0]["message"]["content"] == "Hello"
    [call] = backend.calls
    assert (call.raw, call.body["stream"], call.body["stream_options"]) == (None, True, {"include_usage": True})
    assert backend.open == 0


async def test_what_is_received_is_told_up_to_the_end_of_the_answer(dispatcher: Dispatcher) -> None:
    received: list[bytes] = []
    pieces = [b": hi\n\n", said("Hel"), said("lo") + DONE[:-1], DONE[-1:] + b"data: no JSON\n\n", said("more")]
    job = job_of(Backend(iter(pieces)))
    streamed = await answer_by_stream(dispatcher, job, new_id, on_received=received.append)
    assert b"".join(received) == b": hi\n\n" + said("Hel") + said("lo") + DONE
    assert (streamed.completion["choices"][0]["message"]["content"], streamed.whole) == ("Hello", None)


async def test_silence_is_bounded_as_in_any_stream_and_all_of_it_as_a_whole_answer(dispatcher: Dispatcher) -> None:
    backend = Backend()
    await answer_by_stream(dispatcher, job_of(backend), new_id)
    [call] = backend.calls
    assert (call.first_byte_s, call.idle_s, call.total_s) == (5, 30, 100)


async def test_where_tools_are_offered_silence_is_no_stall(dispatcher: Dispatcher) -> None:
    """A server may hold a call back until it has all of it."""
    backend = Backend()
    await answer_by_stream(dispatcher, job_of(backend, tools=TOOLS), new_id)
    [call] = backend.calls
    assert (call.first_byte_s, call.idle_s, call.total_s) == (100, 100, 100)


async def test_a_job_made_whole_again_has_the_deadlines_of_a_whole_answer(dispatcher: Dispatcher) -> None:
    call = as_whole(dispatcher, job_of(Backend()), {"model": "small"}, b"{}").call
    assert (call.body, call.raw, call.first_byte_s, call.total_s) == ({"model": "small"}, b"{}", 100, 100)


@pytest.mark.parametrize(
    "piece", [b":" + b"x" * 1_000_000 + b"\n\n", said("x" * 1_000_000)], ids=["of events", "of text"]
)
async def test_a_stream_without_measure_is_cut_off(dispatcher: Dispatcher, piece: bytes) -> None:
    backend = Backend(iter([*repeat(piece, 20), DONE]) if piece.startswith(b"data") else repeat(piece))
    with pytest.raises(UpstreamFailed, match=r"gpu streamed more than [0-9]+ bytes for one answer"):
        await answer_by_stream(dispatcher, job_of(backend), new_id)
    assert backend.open == 0


async def test_a_stream_that_ends_early_is_the_upstreams_failure(dispatcher: Dispatcher) -> None:
    with pytest.raises(UpstreamFailed, match="ended its stream before the answer was complete"):
        await answer_by_stream(dispatcher, job_of(Backend(iter([said("Hel")]))), new_id)


@pytest.mark.parametrize("where", ["opening", "receiving"])
async def test_whoever_leaves_closes_the_stream(
    dispatcher: Dispatcher, where: str, autojump_clock: trio.testing.MockClock
) -> None:
    backend = Backend(**{where: trio.sleep_forever})
    with trio.move_on_after(3) as scope:
        await answer_by_stream(dispatcher, job_of(backend), new_id)
    assert scope.cancelled_caught
    assert (len(backend.calls), backend.open) == (1, 0)


async def test_where_a_class_lets_calls_finish_the_answer_is_seen_through_but_not_for_ever(
    dispatcher: Dispatcher, autojump_clock: trio.testing.MockClock
) -> None:
    backend = Backend(receiving=partial(trio.sleep, 25))
    with trio.move_on_after(3):
        await answer_by_stream(dispatcher, job_of(backend, finish=True), new_id)
    assert (trio.current_time(), backend.open) == (pytest.approx(50), 0)
    endless = Backend(receiving=trio.sleep_forever)
    with pytest.raises(UpstreamTimeout, match="did not finish its answer within 100 s"):
        await answer_by_stream(dispatcher, job_of(endless, finish=True), new_id)
    assert (trio.current_time(), endless.open) == (pytest.approx(150), 0)


async def test_a_whole_answer_that_is_seen_through_has_an_end_too(
    dispatcher: Dispatcher, autojump_clock: trio.testing.MockClock
) -> None:
    job = job_of(Backend(receiving=trio.sleep_forever), finish=True)
    with pytest.raises(UpstreamTimeout, match="did not finish its answer within 40 s"):
        await answer(dispatcher, replace(job, call=replace(job.call, total_s=40.0)))


def refused(status: int, message: str) -> UpstreamFailed:
    body = json.dumps({"error": {"message": message}}).encode()
    return failure_from_answer(UpstreamAnswer(status, "application/json", None, body, 0.0), upstream="gpu")


@pytest.mark.parametrize(
    ("error", "refuses"),
    [
        (refused(400, "Streaming is not supported with tools"), True),
        (refused(500, "Cannot use tools with stream"), True),
        (refused(501, "`stream` must be false"), True),
        (refused(400, "no such model"), False),
        (refused(400, "downstream is full"), False),
        (UpstreamFailed("gpu ended its stream before the answer was complete.", upstream="gpu"), False),
        (UpstreamTimeout("gpu fell silent in its stream.", upstream="gpu"), False),
    ],
)
def test_only_a_status_whose_words_name_streams_refuses_them(error: GatewayError, refuses: bool) -> None:
    assert refuses_streams(error) is refuses
