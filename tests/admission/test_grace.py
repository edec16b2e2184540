"""Grace: a shield ends, at its own deadline or when the process goes."""

import pytest
import trio
import trio.testing

from appliance.admission.grace import Grace


async def test_what_is_shielded_goes_on_after_cancel_and_ends_at_its_deadline(
    autojump_clock: trio.testing.MockClock,
) -> None:
    grace = Grace()
    began = trio.current_time()
    with trio.CancelScope() as outer:
        outer.cancel()
        with grace.shield(7):
            await trio.sleep_forever()
    assert trio.current_time() - began == pytest.approx(7)


@pytest.mark.parametrize("before", [True, False])
async def test_cutting_ends_every_shield_now_and_later(autojump_clock: trio.testing.MockClock, before: bool) -> None:
    grace = Grace()
    began = trio.current_time()

    async def cut_in_a_second() -> None:
        if not before:
            await trio.sleep(1)
        grace.cut(2)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(cut_in_a_second)
        await trio.testing.wait_all_tasks_blocked()
        with grace.shield(100):
            await trio.sleep_forever()
    assert trio.current_time() - began == pytest.approx(2 if before else 3)
