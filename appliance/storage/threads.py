"""Threads: one blocking job at a time for one task, at two thirds of the price of `trio.to_thread`."""

import contextlib
from collections.abc import Callable
from typing import Any, TypeVar

import trio

T = TypeVar("T")


class OneThread:
    """For a task whose jobs follow one another: asking a limiter would cost it a round of the scheduler for each.

    A job whose waiter is cancelled is abandoned: it runs on, and `wait_idle` waits for it.
    """

    def __init__(self) -> None:
        self._idle = trio.Event()
        self._idle.set()

    async def wait_idle(self) -> None:
        """Wait until no job runs, an abandoned one neither."""
        await self._idle.wait()

    async def run(self, job: Callable[[], T]) -> T:
        """Run a job in a thread. Raises what it raises; trio.BusyResourceError: one is running."""
        if not self._idle.is_set():
            raise trio.BusyResourceError("one job at a time")
        await trio.lowlevel.checkpoint_if_cancelled()
        self._idle = idle = trio.Event()
        task, token = trio.lowlevel.current_task(), trio.lowlevel.current_trio_token()
        waiting = True

        def end(result: Any) -> None:
            idle.set()
            if waiting:
                trio.lowlevel.reschedule(task, result)

        def deliver(result: Any) -> None:
            with contextlib.suppress(trio.RunFinishedError):  # nobody is there any more
                token.run_sync_soon(end, result)

        def abandon(_raise_cancel: object) -> trio.lowlevel.Abort:
            nonlocal waiting
            waiting = False
            return trio.lowlevel.Abort.SUCCEEDED

        trio.lowlevel.start_thread_soon(job, deliver)
        result: T = await trio.lowlevel.wait_task_rescheduled(abandon)
        return result
