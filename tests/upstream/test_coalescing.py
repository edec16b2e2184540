"""Sends that many tasks are about to make go out in a row, and nobody waits where few are."""

import pytest
import trio

from appliance.upstream.coalescing import MANY, Coalescer, open_coalescer


async def two_requests(coalescer: Coalescer, seen: list[str]) -> None:
    for request in ("first", "second"):
        await trio.lowlevel.checkpoint()
        seen.append(f"{request} read")
        await coalescer.line_up()
        seen.append(f"{request} sent")


async def run_at_a_time(tasks: int) -> list[str]:
    seen: list[str] = []
    with open_coalescer() as coalescer:
        async with trio.open_nursery() as nursery:
            for _ in range(tasks):
                nursery.start_soon(two_requests, coalescer, seen)
    return seen


async def test_many_sends_go_out_in_a_row_once_many_were_seen() -> None:
    seen = await run_at_a_time(MANY)
    assert seen[: 2 * MANY] == ["first read", "first sent"] * MANY
    assert seen[2 * MANY :] == ["second read"] * MANY + ["second sent"] * MANY


async def test_few_sends_wait_for_nobody() -> None:
    seen = await run_at_a_time(MANY - 1)
    assert seen == ["first read", "first sent"] * (MANY - 1) + ["second read", "second sent"] * (MANY - 1)


async def test_lining_up_is_no_place_to_be_cancelled() -> None:
    with open_coalescer() as coalescer, trio.CancelScope() as scope:
        for _ in range(MANY):
            await coalescer.line_up()
        await trio.lowlevel.checkpoint()
        scope.cancel()
        await coalescer.line_up()
        reached = True
    assert reached


async def test_nothing_of_it_stays_behind() -> None:
    with open_coalescer() as coalescer:
        pass
    with pytest.raises(KeyError):
        trio.lowlevel.remove_instrument(coalescer)
