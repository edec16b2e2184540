"""Previews: which ones a client is shown."""

import pytest
import trio
import trio.testing

from appliance.protocol.images import Image
from appliance.server.previews import Previews, is_due

FRAME = Image(b"\xff\xd8\xff", "jpeg")


@pytest.mark.parametrize(("wanted", "steps"), [(1, [10]), (2, [7, 14]), (3, [5, 10, 15])])
async def test_previews_of_every_step_are_spread_over_the_drawing(wanted: int, steps: list[int]) -> None:
    previews = Previews(wanted)
    shown = []
    for step in range(1, 21):
        previews.offer(FRAME, step / 20)
        if "waiting" in repr(previews):
            await previews.take()
            shown.append(step)
    assert shown == steps


async def test_previews_without_progress_come_at_doubling_times(mock_clock: trio.testing.MockClock) -> None:
    previews = Previews(3)
    shown = []
    for second in range(1, 21):
        mock_clock.jump(1)
        previews.offer(FRAME)
        if "waiting" in repr(previews):
            await previews.take()
            shown.append(second)
    assert shown == [1, 2, 4]


async def test_nothing_is_taken_once_the_drawing_has_ended() -> None:
    previews = Previews(3)
    previews.offer(FRAME, 0.5)
    previews.close()
    previews.offer(FRAME, 0.9)
    assert await previews.take() is None


async def test_a_wait_that_is_given_up_loses_no_preview() -> None:
    previews = Previews(1)
    with trio.move_on_after(0):
        await previews.take()
    previews.offer(FRAME, 0.5)
    with trio.move_on_after(0):
        await trio.lowlevel.checkpoint()
    assert await previews.take() == (0, FRAME)
    assert repr(previews) == "<Previews 1/1>"


def test_thirds_count_however_they_are_rounded() -> None:
    assert is_due(0.3333333, 0, 2, 1, 0)
    assert not is_due(0.33, 0, 2, 1, 0)
