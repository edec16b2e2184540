"""Meter: a program that overdraws its caller's budget is ended while it writes, and others beside it are not."""

from pathlib import Path

import trio

from appliance.config.settings import Settings
from appliance.toolbus.meter import IoBudget, spend
from appliance.toolbus.process import run_program
from appliance.toolbus.program import Program, bounded_program

LONG_S = 60.0


def endless(home: Path) -> Program:
    return bounded_program(Settings(), ("/usr/bin/yes",), home=home, cwd=home, timeout_s=LONG_S)


async def test_a_program_that_writes_for_ever_is_ended_when_the_budget_is_spent(tmp_path: Path) -> None:
    budget = IoBudget(1_000_000)
    with trio.fail_after(LONG_S / 2), budget.metered() as call:
        await run_program(endless(tmp_path))
        raise AssertionError("unreachable: it was ended")
    assert call.scope.cancelled_caught
    assert 1_000_000 < call.counted == budget.spent < 2_000_000


async def test_a_program_within_the_budget_ends_by_itself(tmp_path: Path) -> None:
    budget = IoBudget(1_000)
    program = bounded_program(Settings(), ("/bin/echo", "hello"), home=tmp_path, cwd=tmp_path, timeout_s=LONG_S)
    with budget.metered() as call:
        result = await run_program(program)
    budget.settle(call, result.io_bytes)
    assert (result.stdout, call.scope.cancelled_caught) == ("hello\n", False)
    assert budget.spent == call.counted == result.io_bytes == 6


async def test_what_was_not_counted_as_it_came_is_counted_when_the_call_ends() -> None:
    budget = IoBudget(100)
    with budget.metered() as call:
        await trio.lowlevel.checkpoint()
    budget.settle(call, 60)
    with budget.metered() as second:
        spend(41)
        await trio.lowlevel.checkpoint()
    assert (budget.spent, second.scope.cancelled_caught) == (101, True)


async def test_calls_side_by_side_share_a_budget_and_each_has_its_own_count() -> None:
    budget = IoBudget(100)
    counted: list[int] = []

    async def move(count: int) -> None:
        with budget.metered() as call:
            await trio.lowlevel.checkpoint()
            spend(count)
            await trio.lowlevel.checkpoint()
        counted.append(call.counted)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(move, 30)
        nursery.start_soon(move, 40)
    assert (sorted(counted), budget.spent) == ([30, 40], 70)


async def test_without_a_meter_nothing_is_counted() -> None:
    spend(10**12)
    await trio.lowlevel.checkpoint()
