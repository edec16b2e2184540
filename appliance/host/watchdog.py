"""Watchdog: the manager hears that we live only while every part that matters has really moved."""

from collections.abc import Awaitable, Callable, Mapping

import trio

from appliance.telemetry.log import Log

Check = Callable[[], Awaitable[bool]]
ROUNDS = 3  # in one watchdog interval: a round that used all its time still ends well before the manager's patience


async def run_watchdog(
    feed: Callable[[], object],
    checks: Mapping[str, Check],
    interval_s: float,
    log: Log,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Ask every part to move, `ROUNDS` times in `interval_s`, and `feed` after each round in which all did.

    A part that does not within its round is named in the log once; the manager's patience then runs out by itself.
    """
    period_s = interval_s / ROUNDS
    starving = False
    task_status.started()
    while True:
        next_round = trio.current_time() + period_s
        stalled = await find_stalled(checks, period_s)
        if stalled is None:
            feed()
        if starving != (stalled is not None):
            starving = not starving
            log("watchdog_starved" if starving else "watchdog_fed_again", level="warning", part=stalled)
        await trio.sleep_until(next_round)


async def find_stalled(checks: Mapping[str, Check], within_s: float) -> str | None:
    """The first part that does not move; None if all do, one after the other, in `within_s` together."""
    part = None
    with trio.move_on_after(within_s):
        for part, check in checks.items():
            if not await check():
                return part
        return None
    return part
