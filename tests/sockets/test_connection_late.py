"""Hypercorn comes late: the first connection that needs it waits for it, and can be ended while it waits."""

import math
import subprocess
import sys

import pytest
import trio
from trio.testing import memory_stream_pair, wait_all_tasks_blocked

from appliance.server.connection import HypercornConversation, Make
from appliance.server.connection_hypercorn import H11Conversation, build_config
from appliance.server.connection_link import Link
from appliance.server.connection_transport import Transport
from appliance.server.listener_limits import ListenerLimits
from tests.sockets.listening import App, echo

FIRST_OF_A_PROCESS = """
import sys, trio
from tests.sockets.listening import echo, listening, speaker
speaker.set(sys.argv[1])
PLAIN = b"GET /a HTTP/1.1\\r\\nHost: g\\r\\nConnection: close\\r\\n\\r\\n"
CHUNKED = b"POST /c HTTP/1.1\\r\\nHost: g\\r\\nConnection: close\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\n0\\r\\n\\r\\n"
async def main():
    async with listening(echo) as house:
        print("hypercorn" in sys.modules)
        for request in (PLAIN, CHUNKED, CHUNKED):
            answer = await house.exchange(request)
            print(answer[9:12].decode(), "hypercorn" in sys.modules)
trio.run(main)
"""


@pytest.mark.parametrize(
    ("http1", "answers"),
    [
        ("lane", ["False", "200 False", "200 True", "200 True"]),
        ("stock", ["True", "200 True", "200 True", "200 True"]),
    ],
)
def test_the_first_request_that_needs_hypercorn_is_answered_like_the_second(http1: str, answers: list[str]) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", FIRST_OF_A_PROCESS, http1], capture_output=True, text=True, check=True, timeout=30
    )
    assert ended.stdout.splitlines() == answers


async def sleep(*_: object) -> None:
    await trio.sleep_forever()


class Waiting:
    """A conversation that waits for hypercorn until it is let go on."""

    def __init__(self, app: App = echo) -> None:
        self.app = app
        self.come = trio.Event()
        self.crashes: list[BaseException] = []
        self.client, server = memory_stream_pair()
        limits = ListenerLimits()

        def close() -> None:
            server.send_stream.close()
            server.receive_stream.close()

        transport = Transport(server, close, write_stall_timeout_s=math.inf)
        where = ("192.0.2.7", 4711)
        self.link = Link(
            transport,
            transport,
            limits=limits,
            refuse=lambda refusal: refusal.code.encode(),
            peer=where,
            local=where,
            socket=None,
        )
        self.conversation = HypercornConversation(self.link, self.get_make)

    async def get_make(self) -> Make:
        await self.come.wait()
        config = build_config(self.link.limits)
        return lambda link: H11Conversation(link, self.app, config, self.crashes.append)

    async def read(self) -> bytes:
        return b"".join([piece async for piece in self.client])


GET = b"GET / HTTP/1.1\r\nHost: g\r\nConnection: close\r\n\r\n"


async def test_what_was_read_before_hypercorn_came_is_answered(autojump_clock: trio.testing.MockClock) -> None:
    waiting = Waiting()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(waiting.conversation.run, GET)
        await wait_all_tasks_blocked()
        assert waiting.conversation.waiting
        waiting.come.set()
        assert (await waiting.read()).startswith(b"HTTP/1.1 200")
    assert waiting.crashes == []


async def test_a_connection_that_waits_for_hypercorn_is_drained_at_once() -> None:
    waiting = Waiting()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(waiting.conversation.run, GET)
        await wait_all_tasks_blocked()
        waiting.conversation.drain()
        waiting.conversation.cancel_requests()
        assert await waiting.read() == b""
        waiting.come.set()
    assert waiting.crashes == []


async def test_a_connection_that_is_cancelled_while_it_waits_is_closed() -> None:
    waiting = Waiting()
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(waiting.conversation.run, GET)
            await wait_all_tasks_blocked()
            scope.cancel()
    assert scope.cancelled_caught
    assert await waiting.read() == b""


async def test_a_request_that_runs_is_cancelled_and_says_so() -> None:
    waiting = Waiting(app=sleep)
    waiting.come.set()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(waiting.conversation.run, GET)
        await wait_all_tasks_blocked()
        assert not waiting.conversation.waiting
        waiting.conversation.cancel_requests()
        assert await waiting.read() == b"shutting_down"


async def test_an_idle_connection_is_drained_at_once() -> None:
    waiting = Waiting()
    waiting.come.set()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(waiting.conversation.run)
        await wait_all_tasks_blocked()
        waiting.conversation.drain()
        assert await waiting.read() == b""
