"""Random cancels: clients that come and leave at any moment, beside one that stays, on one A1111. Half a minute."""

import random

import pytest
import trio

from appliance.backends.a1111 import A1111Backend
from appliance.backends.base import ImageEdit
from appliance.config.settings import Settings
from appliance.protocol.images import Image
from appliance.upstream.client import open_upstream
from tests.backends.calls import Drawing, draw, image_call
from tests.fakes.a1111 import Behaviour, open_fake_a1111
from tests.fakes.clock import loopback_clock
from tests.fakes.pictures import png

__all__ = ["loopback_clock"]

pytestmark = pytest.mark.real  # nothing real but its length

CANCELS = 500
BACKEND = A1111Backend()


async def test_five_hundred_cancels_hurt_nobody_and_lose_no_slot(nursery, loopback_clock):
    """Drawings, edits and streams; cut off while queued, starting, drawing, being previewed, encoded or answered."""
    dice = random.Random(42)
    slots = trio.CapacityLimiter(2)
    over = trio.Event()
    drawn = 0

    async with open_upstream(Settings()) as upstream, open_fake_a1111(Behaviour(step_s=0.1, encode_s=0.1)) as fake:

        async def stay():
            nonlocal drawn
            while not over.is_set():
                async with slots:
                    assert (await draw(BACKEND, some_call(dice, fake.base_url), upstream)).images
                drawn += 1

        async def leave():
            for _ in range(CANCELS):
                drawing = Drawing()
                async with slots:
                    nursery.start_soon(drawing.run, BACKEND, some_call(dice, fake.base_url), upstream)
                    await trio.sleep(dice.choice([0.0, dice.uniform(0, 0.1), dice.uniform(0, 2)]))
                    drawing.scope.cancel()
                    await drawing.slot_back.wait()
                    assert drawing.error is None
            over.set()

        async with trio.open_nursery() as clients:
            clients.start_soon(stay)
            clients.start_soon(leave)
        assert fake.counts.foreign_kills == 0
        assert fake.is_idle
        assert slots.borrowed_tokens == 0
        assert fake.counts.interrupted > CANCELS / 10, "some were there to be interrupted"
    assert drawn > CANCELS / 10


def some_call(dice, base_url):
    edit = ImageEdit(Image(png(8, 8), "png")) if dice.random() < 0.3 else None
    on_preview = (lambda *_: None) if dice.random() < 0.5 else None
    return image_call(base_url, options={"steps": dice.randint(4, 20)}, edit=edit, on_preview=on_preview)
