"""stable-diffusion.cpp's jobs on the real server, and one probe that asks fake and real the same."""

import io
import json
from contextlib import asynccontextmanager

import pytest
import trio
from PIL import Image as Pillow

from appliance.backends.base import ImageEdit
from appliance.backends.openai_images import OpenAIImagesBackend
from appliance.config.settings import Settings
from appliance.protocol.errors import InvalidRequest, UpstreamFailed
from appliance.protocol.images import Image
from appliance.upstream.client import open_upstream
from tests.backends.calls import Drawing, draw, image_call
from tests.fakes.sd_cpp import Behaviour, open_fake_sd_cpp
from tests.real.comfyui.probe import ask, shape
from tests.real.sdserver.launch import open_sd_server

pytestmark = pytest.mark.real

BACKEND = OpenAIImagesBackend()
SMALL = {"prompt": "a fox", "width": 64, "height": 64, "seed": 7, "sample_params": {"sample_steps": 1}}
SLOW = {"size": (256, 256), "options": {"steps": 4, "cfg_scale": 1.0}}
PATIENCE_S = 120.0


@asynccontextmanager
async def open_real(sd_server, folder):
    async with open_upstream(Settings()) as upstream, open_sd_server(sd_server, folder) as running:
        with trio.fail_after(PATIENCE_S):
            await trio.lowlevel.checkpoint()
            yield upstream, running


def call(running, **changes):
    return image_call(running.base_url, unstoppable=True, **changes)


async def probe(upstream, base_url):
    """Everything that the backend relies on, by shape; the words of a refusal as they are."""
    found = {}
    api = base_url + "/sdcpp/v1"

    async def look(name, path, body=None, *, words=False):
        answer = await ask(upstream, api, path, body)
        said = json.loads(answer.body)
        found[name] = (answer.status, said if words else shape(said))
        return said

    await look("no such job", "/jobs/nope", words=True)
    await look("cancel of no such job", "/jobs/nope/cancel", b"{}", words=True)
    await look("malformed", "/img_gen", b"{")
    await look("a list", "/img_gen", [])
    known = await look("capabilities", "/capabilities")
    found["capabilities"] = (
        found["capabilities"][0],
        shape(known["samplers"]),
        shape(known["schedulers"]),
        {name: known["features"][name] for name in ("cancel_queued", "cancel_generating")},
        type(known["limits"]["max_queue_size"]),
    )
    slow = {**SMALL, "width": 256, "height": 256, "sample_params": {"sample_steps": 4}}
    first = (await look("accepted", "/img_gen", slow))["id"]
    second = (await look("accepted too", "/img_gen", SMALL))["id"]
    while json.loads((await ask(upstream, api, f"/jobs/{first}")).body)["status"] == "queued":  # noqa: ASYNC110 - the server has no event
        await trio.sleep(0.01)
    await look("generating", f"/jobs/{first}")
    await look("queued", f"/jobs/{second}")
    await look("cancel of the one that is drawn", f"/jobs/{first}/cancel", b"{}", words=True)
    await look("cancel of the one that waits", f"/jobs/{second}/cancel", b"{}")
    await look("cancelled again", f"/jobs/{second}/cancel", b"{}")
    while json.loads((await ask(upstream, api, f"/jobs/{first}")).body)["status"] == "generating":  # noqa: ASYNC110 - the server has no event
        await trio.sleep(0.05)
    await look("completed", f"/jobs/{first}")
    await look("cancel of the completed", f"/jobs/{first}/cancel", b"{}")
    for _ in range(known["limits"]["max_queue_size"] + 1):
        await ask(upstream, api, "/img_gen", slow)
    await look("full", "/img_gen", SMALL, words=True)
    return found


async def test_fake_answers_like_the_real_server(sd_server, tmp_path):
    async with open_real(sd_server, tmp_path) as (upstream, running):
        real = await probe(upstream, running.base_url)
    async with open_upstream(Settings()) as upstream, open_fake_sd_cpp(Behaviour(drawing_s=0.5)) as fake:
        ours = await probe(upstream, fake.base_url)
    assert ours == real


async def test_what_is_asked_for_counts(sd_server, tmp_path):
    """The OpenAI-style route of this server draws every picture with seed 42 and its own steps."""
    async with open_real(sd_server, tmp_path) as (upstream, running):
        how = {"size": (64, 64), "n": 2}
        drawn = [
            await draw(BACKEND, call(running, options={"seed": seed, "steps": steps}, **how), upstream)
            for seed, steps in ((5, 1), (5, 1), (6, 1), (5, 3))
        ]
        named = {"steps": 1, "sampler": "Euler a", "scheduler": "karras", "negative_prompt": "fog"}
        assert (await draw(BACKEND, call(running, options=named, **how), upstream)).images
        with pytest.raises(InvalidRequest, match="euler_a"):
            await draw(BACKEND, call(running, options={"sampler": "nope"}), upstream)
    assert drawn[0].images == drawn[1].images
    assert drawn[0].images != drawn[2].images
    assert drawn[0].images != drawn[3].images
    assert drawn[0].images[0] != drawn[0].images[1]
    assert all(Pillow.open(io.BytesIO(one.data)).size == (64, 64) for one in drawn[0].images)
    assert all(b"lighthouse" not in one.data for one in drawn[0].images)


async def test_edits_are_drawn_with_and_without_a_mask(sd_server, tmp_path):
    mask = io.BytesIO()
    Pillow.new("RGBA", (64, 64)).save(mask, "png")
    picture = io.BytesIO()
    Pillow.linear_gradient("L").resize((64, 64)).convert("RGB").save(picture, "png")
    base = Image(picture.getvalue(), "png")
    async with open_real(sd_server, tmp_path) as (upstream, running):
        for edit in (ImageEdit(base, strength=0.5), ImageEdit(base, Image(mask.getvalue(), "png"))):
            one = call(running, edit=edit, size=(64, 64), options={"steps": 2, "seed": 5})
            result = await draw(BACKEND, one, upstream)
            assert Pillow.open(io.BytesIO(result.images[0].data)).size == (64, 64)


async def test_who_waits_leaves_the_real_queue_and_who_is_drawn_holds_its_slot(nursery, sd_server, tmp_path):
    async with open_real(sd_server, tmp_path) as (upstream, running):
        first, second = Drawing(), Drawing()
        nursery.start_soon(first.run, BACKEND, call(running, **SLOW), upstream)
        while running.drawings()[0] == 0:  # noqa: ASYNC110 - a log file has no event
            await trio.sleep(0.01)
        nursery.start_soon(second.run, BACKEND, call(running, **SLOW), upstream)
        await trio.sleep(0.3)
        second.scope.cancel()
        await second.slot_back.wait()
        assert running.drawings() == (1, 0), "its slot is back while the other one is drawn"
        first.scope.cancel()
        await first.slot_back.wait()
        assert running.drawings() == (1, 1)
        await trio.sleep(0.5)
        assert running.drawings() == (1, 1), "the one that waited is not drawn"


async def test_a_death_while_it_draws_is_502(nursery, sd_server, tmp_path):
    async with open_real(sd_server, tmp_path) as (upstream, running):
        drawing = Drawing()
        nursery.start_soon(drawing.run, BACKEND, call(running, **SLOW), upstream)
        while running.drawings()[0] == 0:  # noqa: ASYNC110 - a log file has no event
            await trio.sleep(0.01)
        running.process.kill()
        with trio.fail_after(5):
            await drawing.slot_back.wait()
    assert isinstance(drawing.error, UpstreamFailed)
