"""Holding: seeing a call through to its end for a server that cannot stop drawing, though nobody waits any more."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

from appliance.protocol.errors import GatewayError

T = TypeVar("T")


def _ignore() -> None:
    return


async def hold_to_the_end(
    exchange: Callable[[], Awaitable[T]], timeout_s: float, *, on_expired: Callable[[], None] = _ignore
) -> T:
    """Make a call that goes on when its caller is cancelled: its answer is the end of the job.

    At most `timeout_s` longer, then `on_expired`. To close such a connection would only lose sight of the job.
    """
    answer: T | None = None
    failure: GatewayError | None = None
    hold = trio.CancelScope(shield=True)
    async with trio.open_nursery() as nursery:
        with hold:
            nursery.start_soon(_bound_when_cancelled, hold, timeout_s)
            try:
                answer = await exchange()
            except GatewayError as error:  # carried past the nursery, which would wrap it in a group
                failure = error
        if hold.cancelled_caught:
            on_expired()
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
    if answer is None:
        raise AssertionError("unreachable: only a cancelled caller bounds the hold, and the nursery has raised that")
    return answer


async def _bound_when_cancelled(hold: trio.CancelScope, timeout_s: float) -> None:
    try:
        await trio.sleep_forever()
    except trio.Cancelled:
        hold.deadline = trio.current_time() + timeout_s
        raise
