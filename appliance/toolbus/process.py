"""Processes: a program runs, within its time and its limits, and nothing of it is left when the call returns."""

import contextlib
import os
import signal
from dataclasses import dataclass, field
from functools import partial

import trio

from appliance.toolbus.base import ToolFailed
from appliance.toolbus.family import Family
from appliance.toolbus.meter import spend
from appliance.toolbus.program import Program, ProgramResult
from appliance.toolbus.spawning import explain_start, spawn
from appliance.toolbus.tails import Tail

KILL_S = 5.0  # SIGKILL takes milliseconds; what waits for a disk inside the kernel may take longer
KILL_AGAIN_S = 0.002
DRAIN_S = 1.0  # what a pipe holds is read at once; this ends one that is held open by who escaped the kill
_PIECE_BYTES = 65536


@dataclass(slots=True)
class _Run:
    """A program that was started. `returncode` and `cpu_s` are known once it is reaped."""

    program: Program
    process: trio.Process
    out: Tail
    err: Tail
    sent_bytes: int = 0
    returncode: int | None = None
    cpu_s: float = 0.0
    threads: trio.CapacityLimiter = field(default_factory=partial(trio.CapacityLimiter, 1))  # never waits for others

    def reap(self) -> None:
        """Take the leader's status with its rusage, which trio's own wait would drop."""
        pid, status, usage = os.wait4(self.process.pid, os.WNOHANG)
        if pid:
            self.returncode = os.waitstatus_to_exitcode(status)
            self.cpu_s = usage.ru_utime + usage.ru_stime
            self.process.poll()  # finds no child any more, and closes its descriptor


async def run_program(program: Program) -> ProgramResult:
    """Run it to its end, or for `timeout_s`. However this call ends, no process of it is left, nor a zombie.

    A program need not read its stdin. What its children would write after it has ended is not waited for: they are
    killed with it. Raises ToolFailed when it cannot be started, or not be ended.
    """
    run = await _start(program)
    try:
        try:
            with trio.move_on_after(program.timeout_s) as clock:
                await _converse(run)
        finally:
            with trio.move_on_after(KILL_S, shield=True):
                await _end(run)
        with trio.move_on_after(DRAIN_S):
            await _drain(run)
    finally:
        with trio.move_on_after(KILL_S, shield=True):
            await _close(run)
    return _result(run, timed_out=clock.cancelled_caught)


async def _start(program: Program) -> _Run:
    with trio.move_on_after(program.timeout_s):
        process = await spawn(program)
        return _Run(program, process, Tail(program.stdout_max_chars), Tail(program.stderr_max_chars))
    raise ToolFailed("timeout", f"{program.name} could not be started within {program.timeout_s:g} s: try again.")


async def _converse(run: _Run) -> None:
    """Write and read until the program itself has ended, whoever else holds its pipes."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_feed, run)
        nursery.start_soon(_collect, run.process.stdout, run.out)
        nursery.start_soon(_collect, run.process.stderr, run.err)
        await _exited(run)
        nursery.cancel_scope.cancel()


async def _feed(run: _Run) -> None:
    stdin = run.process.stdin
    if stdin is None:
        return
    data = memoryview(run.program.stdin)
    with contextlib.suppress(trio.BrokenResourceError):  # it reads no more: its own affair
        for start in range(0, len(data), _PIECE_BYTES):
            piece = data[start : start + _PIECE_BYTES]
            await stdin.send_all(piece)
            run.sent_bytes += len(piece)
            spend(len(piece))
    await stdin.aclose()


async def _collect(stream: trio.abc.ReceiveStream | None, tail: Tail) -> None:
    while stream is not None and (data := await stream.receive_some(_PIECE_BYTES)):
        tail.add(data)
        spend(len(data))


async def _exited(run: _Run) -> None:
    """Until the leader is dead. It stays a zombie, so that its number, and its group's, is its own."""
    pid = run.process.pid
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:  # sandboxes that do not know the call
        wait = partial(os.waitid, os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        await trio.to_thread.run_sync(wait, abandon_on_cancel=True)
        return
    try:
        await trio.lowlevel.wait_readable(descriptor)
    finally:
        os.close(descriptor)


async def _end(run: _Run) -> None:
    family = Family(run.process.pid, run.program.home)
    try:
        while await trio.to_thread.run_sync(family.kill, limiter=run.threads):  # noqa: ASYNC110 -- grandchildren have no event
            await trio.sleep(KILL_AGAIN_S)
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(run.process.pid, signal.SIGKILL)  # even if there is no thread to be had
    await _exited(run)
    run.reap()


async def _drain(run: _Run) -> None:
    """Read what is still in the pipes: everybody who wrote to them is dead."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_collect, run.process.stdout, run.out)
        nursery.start_soon(_collect, run.process.stderr, run.err)


async def _close(run: _Run) -> None:
    for pipe in (run.process.stdin, run.process.stdout, run.process.stderr):
        if pipe is not None:
            await pipe.aclose()


def _result(run: _Run, *, timed_out: bool) -> ProgramResult:
    if run.returncode is None:
        raise ToolFailed("not_ended", f"{run.program.name} could not be ended: it waits inside the kernel.")
    stderr = run.err.text()
    if (failure := explain_start(run.program, run.returncode, stderr)) is not None:
        raise failure
    return ProgramResult(
        returncode=run.returncode,
        stdout=run.out.text(),
        stderr=stderr,
        stdout_cut=run.out.is_cut(),
        timed_out=timed_out,
        cpu_s=run.cpu_s,
        io_bytes=run.sent_bytes + run.out.total_bytes + run.err.total_bytes,
    )
