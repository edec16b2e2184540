"""The watchdog: fed while every part moves, starved by one that does not, fed again when it does."""

from collections.abc import Awaitable, Callable
from functools import partial

import pytest
import trio
from trio.testing import MockClock

from appliance.host.watchdog import find_stalled, run_watchdog
from tests.fakes.parts import Parts

INTERVAL_S = 30.0


@pytest.fixture
def parts() -> Parts:
    return Parts()


async def start(nursery: trio.Nursery, parts: Parts) -> None:
    await nursery.start(partial(run_watchdog, parts.feed, parts.checks(), INTERVAL_S, parts.log))


async def test_it_is_fed_three_times_in_an_interval(
    parts: Parts, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    await start(nursery, parts)
    await trio.sleep(INTERVAL_S - 1)
    assert parts.fed == 3


@pytest.mark.parametrize("how", ["hangs", "refuses"])
async def test_a_part_that_does_not_move_starves_it_and_is_named_once(
    parts: Parts, nursery: trio.Nursery, autojump_clock: MockClock, how: str
) -> None:
    parts.second = how
    await start(nursery, parts)
    await trio.sleep(10 * INTERVAL_S)
    assert parts.fed == 0
    assert parts.logged == [("watchdog_starved", "second")]


async def test_a_part_that_moves_again_feeds_it_again(
    parts: Parts, nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    parts.second = "hangs"
    await start(nursery, parts)
    await trio.sleep(INTERVAL_S / 2)
    parts.second = "moves"
    await trio.sleep(INTERVAL_S)
    assert parts.fed >= 2
    assert [event for event, _ in parts.logged] == ["watchdog_starved", "watchdog_fed_again"]


async def test_slow_parts_share_one_deadline(autojump_clock: MockClock) -> None:
    async def slow() -> bool:
        await trio.sleep(4)
        return True

    checks: dict[str, Callable[[], Awaitable[bool]]] = {"first": slow, "second": slow, "third": slow}
    assert await find_stalled(checks, 10) == "third"
    assert await find_stalled(checks, 13) is None
