"""Holding: calls that end otherwise than their callers: seen through though nobody waits, or with a companion."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from typing import TypeVar

import trio

from appliance.backends.base import ImageCall
from appliance.protocol.errors import GatewayError
from appliance.upstream.deadlines import timeout_error
from appliance.upstream.exchange import UpstreamCall

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


async def see_through(
    exchange: Callable[[UpstreamCall], Awaitable[T]],
    post: UpstreamCall,
    call: ImageCall,
    *,
    on_expired: Callable[[], None] = _ignore,
) -> T:
    """For a server that draws to the end: whoever gives up, its client or we, the slot waits for the answer.

    Bounded by the call's cancel_timeout_s. Raises UpstreamTimeout, when it has ended, for a picture that took longer
    than it may.
    """
    more_s = call.cancel_timeout_s
    patient = replace(post, first_byte_s=post.first_byte_s + more_s, total_s=post.total_s + more_s)
    with trio.move_on_after(call.timeout_s):
        return await hold_to_the_end(partial(exchange, patient), more_s, on_expired=on_expired)
    raise timeout_error(call.backend_class.name, "first byte", call.timeout_s)


async def accompany(exchange: Callable[[], Awaitable[T]], companion: Callable[[], Awaitable[None]]) -> T:
    """Make a call, with a companion beside it that ends with it. Raises what the call raises, as it is."""
    answer: T | None = None
    failure: GatewayError | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(companion)
        try:
            answer = await exchange()
        except GatewayError as error:  # carried past the nursery, which would wrap it in a group
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
    if answer is None:
        raise AssertionError("unreachable: a cancelled call has raised from the nursery")
    return answer


async def _bound_when_cancelled(hold: trio.CancelScope, timeout_s: float) -> None:
    try:
        await trio.sleep_forever()
    except trio.Cancelled:
        hold.deadline = trio.current_time() + timeout_s
        raise
