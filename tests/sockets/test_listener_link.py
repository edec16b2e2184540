"""Link and running request, each alone: what is written after the end, and what a call holds and hears."""

import os
import socket
from typing import Any

import pytest
import trio
from trio.testing import MockClock, assert_checkpoints, memory_stream_pair, wait_all_tasks_blocked

from appliance.server.connection_link import Link
from appliance.server.connection_requests import HELD_BYTES, RunningRequest
from appliance.server.connection_transport import Transport, WriteStalled
from appliance.server.listener_hangup import HangupWatcher
from appliance.server.listener_limits import ListenerLimits


def make_link() -> tuple[Any, Link]:
    client, server = memory_stream_pair()

    def close() -> None:
        server.send_stream.close()
        server.receive_stream.close()

    transport = Transport(server, close, write_stall_timeout_s=30)
    address = ("192.0.2.1", 1)
    link = Link(transport, transport, limits=ListenerLimits(), refuse=lambda _: b"refused", peer=address, local=address)
    return client, link


def body(data: bytes = b"", *, more: bool = True) -> dict[str, Any]:
    return {"type": "http.request", "body": data, "more_body": more}


async def test_nothing_is_written_once_the_connection_ends() -> None:
    client, link = make_link()
    await link.write(b"before")
    link.close_soon()
    await link.write(b"after")
    await link.take_leave(linger=False)
    await link.write(b"long after")
    assert await client.receive_some() == b"before"
    assert await client.receive_some() == b""


async def test_only_the_first_refusal_is_sent() -> None:
    client, link = make_link()
    await link.answer_and_close(400, "a", "a")
    await link.answer_and_close(500, "b", "b")
    await link.take_leave(linger=False)
    assert await client.receive_some() == b"refused"
    assert await client.receive_some() == b""


async def test_refusal_of_a_client_that_is_gone_is_not_counted() -> None:
    _, link = make_link()
    link.cut()
    await link.answer_and_close(400, "a", "a")
    assert not link.closing


async def test_hang_up_ends_the_reading_at_once() -> None:
    _, link = make_link()
    link.hang_up()
    link.hang_up()
    assert link.gone
    assert link.reading.cancel_called


async def test_half_a_close_during_the_leave_taking_is_awaited_quietly() -> None:
    client, link = make_link()
    await link.answer_and_close(400, "a", "a")
    link.hang_up()
    assert not link.gone  # closing on unread bytes would reset, and eat the answer
    await client.send_eof()
    await link.take_leave(linger=True)
    assert link.gone
    assert await client.receive_some() == b"refused"


async def test_cancelled_write_to_a_slow_client_ends_the_connection(autojump_clock: MockClock) -> None:
    _, link = make_link()
    link._transport._inner.send_stream.send_all_hook = trio.sleep_forever  # type: ignore[attr-defined]
    with trio.move_on_after(5) as scope:
        await link.write(b"half a message")
    assert scope.cancelled_caught
    assert trio.current_time() == 5
    assert link.gone


async def test_shield_of_a_write_lasts_a_second_at_most(autojump_clock: MockClock) -> None:
    _, link = make_link()
    link._transport._inner.send_stream.send_all_hook = trio.sleep_forever  # type: ignore[attr-defined]
    with trio.CancelScope() as scope:
        scope.cancel()
        await link.write(b"x")
    assert trio.current_time() == 1


async def test_stall_deadline_starts_anew_with_every_byte_taken(autojump_clock: MockClock) -> None:
    _, server = memory_stream_pair()
    transport = Transport(server, lambda: None, write_stall_timeout_s=30)
    taken: list[int] = []

    async def take_ten(data: memoryview) -> int:
        await trio.sleep(29)
        taken.append(min(10, len(data)))
        return taken[-1]

    transport._send_some = take_ten  # type: ignore[method-assign]
    await transport.send_all(b"x" * 100)
    assert sum(taken) == 100

    async def take_nothing(data: memoryview) -> int:
        await trio.sleep_forever()

    transport._send_some = take_nothing  # type: ignore[method-assign]
    with pytest.raises(WriteStalled):
        await transport.send_all(b"x")
    assert trio.current_time() == 290 + 30


async def test_body_that_nobody_reads_is_held_up_and_a_disconnect_is_not() -> None:
    call = RunningRequest({})
    await call.put(body(b"x" * HELD_BYTES))
    with trio.move_on_after(0.01) as scope:
        await call.put(body(b"x"))
    assert scope.cancelled_caught
    await call.put({"type": "http.disconnect"})
    assert (await call.receive())["type"] == "http.disconnect"
    await call.put(body(b"dropped"))
    assert (await call.receive())["type"] == "http.disconnect"


async def test_tiny_pieces_count_with_what_they_cost() -> None:
    call = RunningRequest({})
    pieces = 0
    with trio.move_on_after(0.2) as scope:
        while True:
            await call.put(body(b"x"))
            pieces += 1
    assert scope.cancelled_caught
    assert pieces < 300


async def test_reading_makes_room_for_the_next_piece(nursery: trio.Nursery) -> None:
    call = RunningRequest({})
    await call.put(body(b"1" * HELD_BYTES))
    nursery.start_soon(call.put, body(b"2", more=False))
    await wait_all_tasks_blocked()
    assert (await call.receive())["body"] == b"1" * HELD_BYTES
    assert (await call.receive()) == body(b"2", more=False)


async def test_second_piece_in_a_row_lets_others_run() -> None:
    call = RunningRequest({})
    await call.put(body(b"1"))
    with assert_checkpoints():
        await call.put(body(b"2"))
    with assert_checkpoints():
        await call.receive()


async def test_only_a_call_without_a_complete_answer_gets_a_deadline() -> None:
    answered, open_call = RunningRequest({}), RunningRequest({})
    answered.close()
    answered.leave(5)
    open_call.leave(5)
    assert answered.scope.deadline == float("inf")
    assert open_call.scope.deadline < float("inf")
    assert open_call.closed


async def test_watch_ends_with_forget_even_if_a_child_still_holds_the_socket(nursery: trio.Nursery) -> None:
    watcher = HangupWatcher()
    nursery.start_soon(watcher.run)
    heard: list[str] = []
    old, old_peer = socket.socketpair()
    number = old.fileno()
    inherited = os.dup(number)
    watcher.watch(number, lambda: heard.append("old"))
    watcher.forget(number)
    old.close()
    new, new_peer = socket.socketpair()
    os.dup2(new.fileno(), number)
    watcher.watch(number, lambda: heard.append("new"))
    old_peer.close()
    await wait_all_tasks_blocked(0.01)
    assert heard == []
    new_peer.close()
    with trio.fail_after(5):
        while not heard:  # noqa: ASYNC110 - the kernel tells
            await trio.sleep(0.001)
    assert heard == ["new"]
    nursery.cancel_scope.cancel()
    watcher.close()
    for fd in {inherited, number, new.detach()}:
        os.close(fd)
