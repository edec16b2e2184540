"""Bare connections, alone: deadlines that are numbers, closing under a waiter, and what a dead connection has taken."""

import socket
import struct

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from appliance.upstream.bare import ALARM_S, Alarms, BareStream, NothingSent
from appliance.upstream.coalescing import Coalescer


@pytest.fixture
async def alarms(nursery):
    made = Alarms()

    async def ring():
        while True:
            await trio.sleep(ALARM_S)
            made.ring(trio.current_time())

    nursery.start_soon(ring)
    yield made
    nursery.cancel_scope.cancel()


def pair(alarms):
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    return BareStream(ours, alarms, Coalescer()), trio.SocketStream(trio.socket.from_stdlib_socket(theirs))


async def test_wait_ends_a_moment_after_its_deadline(alarms, autojump_clock):
    near, far = pair(alarms)
    near.deadline = 10
    with pytest.raises(trio.TooSlowError):
        await near.receive_some()
    assert 10 <= trio.current_time() <= 10 + 2 * ALARM_S
    near.deadline = 60
    await far.send_all(b"late, and not lost")
    assert await near.receive_some() == b"late, and not lost"
    near.close()
    await far.aclose()


async def test_deadline_that_has_passed_is_told_at_once(alarms, autojump_clock):
    near, far = pair(alarms)
    near.deadline = trio.current_time() - 1
    await far.send_all(b"there")
    with pytest.raises(trio.TooSlowError):
        await near.receive_some()
    near.close()
    await far.aclose()


async def test_send_waits_for_a_reader_until_its_deadline(alarms, autojump_clock):
    near, far = pair(alarms)
    near.deadline = 5
    with pytest.raises(trio.TooSlowError):
        await near.send_all(b"x" * 10_000_000)
    near.close()
    await far.aclose()


async def test_large_message_arrives_whole(alarms, nursery):
    near, far = pair(alarms)
    nursery.start_soon(near.send_all, b"x" * 3_000_000)
    got = 0
    with trio.fail_after(10):
        while got < 3_000_000:
            got += len(await far.receive_some())
    near.close()
    await far.aclose()


async def test_closing_wakes_who_waits_and_is_no_timeout(alarms, nursery):
    near, far = pair(alarms)
    raised = []

    async def wait():
        try:
            await near.receive_some()
        except trio.ClosedResourceError:
            raised.append("closed")

    nursery.start_soon(wait)
    await wait_all_tasks_blocked()
    near.close()
    near.close()
    await wait_all_tasks_blocked()
    assert raised == ["closed"]
    with pytest.raises(trio.ClosedResourceError):
        await near.receive_some()
    await far.aclose()


async def test_alarm_that_rings_for_a_wait_that_is_over_is_forgotten(alarms, nursery):
    near, far = pair(alarms)
    near.wake()  # as when it rings in the moment in which data came
    raised = []

    async def wait():
        try:
            await near.receive_some()
        except (trio.ClosedResourceError, trio.TooSlowError) as error:
            raised.append(type(error))

    nursery.start_soon(wait)
    await wait_all_tasks_blocked()
    near.close()
    await wait_all_tasks_blocked()
    assert raised == [trio.ClosedResourceError]
    await far.aclose()


def reset(listener, client):
    accepted, _ = listener.accept()
    accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return accepted


@pytest.mark.parametrize("used", [False, True])
async def test_dead_connection_says_whether_it_has_taken_anything(alarms, used):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        client.setblocking(False)
        accepted = reset(listener, client)
        near = BareStream(client, alarms, Coalescer())
        if used:
            await near.send_all(b"earlier")
        accepted.close()
        await trio.sleep(0.01)
        with pytest.raises(trio.BrokenResourceError) as caught:
            await near.send_all(b"x")
        assert isinstance(caught.value, NothingSent) != used
        near.close()
