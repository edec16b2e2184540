"""One thread for one task: its jobs one at a time, abandoned ones waited for."""

import threading

import pytest
import trio
import trio.testing

from appliance.storage.threads import OneThread
from tests.storage.support import HUNG_S


async def test_job_runs_in_a_thread_and_its_result_or_error_comes_back() -> None:
    thread = OneThread()
    assert await thread.run(threading.get_ident) != threading.get_ident()
    with pytest.raises(ZeroDivisionError):
        await thread.run(lambda: 1 // 0)
    await thread.wait_idle()


async def test_second_job_at_a_time_is_a_mistake(nursery: trio.Nursery) -> None:
    thread, gate = OneThread(), threading.Event()
    nursery.start_soon(thread.run, gate.wait)
    await trio.testing.wait_all_tasks_blocked()
    with pytest.raises(trio.BusyResourceError):
        await thread.run(gate.wait)
    gate.set()


async def test_abandoned_job_runs_on_and_is_waited_for() -> None:
    thread, gate, ended = OneThread(), threading.Event(), []

    def job() -> None:
        gate.wait(10)
        ended.append(True)

    with trio.move_on_after(0.01) as scope:
        await thread.run(job)
    assert scope.cancelled_caught
    with trio.move_on_after(0.01) as scope:
        await thread.wait_idle()
    assert scope.cancelled_caught
    gate.set()
    with trio.fail_after(HUNG_S):
        await thread.wait_idle()
    assert ended == [True]
    assert await thread.run(lambda: 1) == 1


async def test_cancelled_task_starts_no_job() -> None:
    thread, ran = OneThread(), []
    with trio.CancelScope() as scope:
        scope.cancel()
        await thread.run(lambda: ran.append(True))
    assert scope.cancelled_caught
    await thread.wait_idle()
    assert ran == []


def test_job_that_outlives_the_loop_harms_nobody() -> None:
    gate, ended = threading.Event(), threading.Event()

    def job() -> None:
        gate.wait(10)
        ended.set()

    async def main() -> None:
        with trio.move_on_after(0.01):
            await OneThread().run(job)

    trio.run(main)
    gate.set()
    assert ended.wait(10)
