"""The image backends against stable-diffusion.cpp's real server, and an independent A1111 client against fake and real."""

import io
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import pytest
import trio
import webuiapi
from PIL import Image as Pillow

from appliance.backends.registry import IMAGE_BACKENDS
from appliance.config.settings import Settings
from appliance.protocol.errors import UpstreamFailed, UpstreamTimeout
from appliance.upstream.client import open_upstream
from tests.backends.calls import Drawing, draw, image_call
from tests.fakes.a1111 import Behaviour, open_fake_a1111
from tests.real.sdserver.build import CannotBuild, ensure_sd_server
from tests.real.sdserver.launch import open_sd_server

pytestmark = pytest.mark.real

NAMES = ["http_a1111", "http_openai_images"]
PATIENCE_S = 120.0


@pytest.fixture(scope="module")
def sd_server():
    try:
        return ensure_sd_server()
    except CannotBuild as reason:
        pytest.skip(str(reason))


@asynccontextmanager
async def open_real(sd_server, folder, **how):
    async with open_upstream(Settings()) as upstream, open_sd_server(sd_server, folder, **how) as running:
        with trio.fail_after(PATIENCE_S):
            await trio.lowlevel.checkpoint()
            yield upstream, running


def sizes(result):
    return [Pillow.open(io.BytesIO(image.data)).size for image in result.images]


@pytest.mark.parametrize("name", NAMES)
async def test_real_pictures_have_the_size_that_was_asked_for_and_no_text(sd_server, tmp_path, name):
    async with open_real(sd_server, tmp_path) as (upstream, running):
        call = image_call(running.base_url, size=(64, 64), n=2, options={"steps": 1, "seed": 5})
        result = await draw(IMAGE_BACKENDS[name], call, upstream)
    assert sizes(result) == [(64, 64)] * 2
    assert all(image.type == "png" for image in result.images)
    assert all(b"lighthouse" not in image.data and b"flux" not in image.data for image in result.images)
    assert result.images[0] != result.images[1]


async def test_seed_decides_the_picture(sd_server, tmp_path):
    async with open_real(sd_server, tmp_path) as (upstream, running):
        drawn = [
            await draw(
                IMAGE_BACKENDS["http_a1111"],
                image_call(running.base_url, size=(64, 64), options={"steps": 1, "seed": seed}),
                upstream,
            )
            for seed in (5, 5, 6)
        ]
    assert drawn[0].images == drawn[1].images != drawn[2].images


@pytest.mark.parametrize("name", NAMES)
async def test_refusal_of_the_real_server_keeps_its_words(sd_server, tmp_path, name):
    """An empty prompt never comes through the gateway; one that is nothing but smuggled arguments ends as one."""
    async with open_real(sd_server, tmp_path) as (upstream, running):
        call = image_call(running.base_url, prompt="<sd_cpp_extra_args>{}</sd_cpp_extra_args>")
        with pytest.raises(UpstreamFailed, match="prompt required") as caught:
            await draw(IMAGE_BACKENDS[name], call, upstream)
    assert caught.value.status == 400


@pytest.mark.parametrize("name", NAMES)
async def test_death_on_the_first_picture_is_502_and_a_restart_heals_it(sd_server, tmp_path, name):
    async with open_real(sd_server, tmp_path, text_encoder=False) as (upstream, running):
        port = urlsplit(running.base_url).port
        call = image_call(running.base_url, size=(64, 64), options={"steps": 1})
        with pytest.raises(UpstreamFailed) as caught:
            await draw(IMAGE_BACKENDS[name], call, upstream)
        assert caught.value.status == 502
        assert await running.process.wait() == -11
        with pytest.raises(UpstreamFailed, match="cannot be reached"):
            await draw(IMAGE_BACKENDS[name], call, upstream)
    again = tmp_path / "again"
    again.mkdir()
    async with open_real(sd_server, again, port=port) as (upstream, _):
        assert sizes(await draw(IMAGE_BACKENDS[name], call, upstream)) == [(64, 64)]


@pytest.mark.parametrize("name", NAMES)
async def test_slot_of_a_cut_off_call_comes_back_when_the_real_server_is_idle(nursery, sd_server, tmp_path, name):
    async with open_real(sd_server, tmp_path) as (upstream, running):
        drawing = Drawing()
        call = image_call(running.base_url, size=(384, 384), options={"steps": 2, "cfg_scale": 1.0}, unstoppable=True)
        nursery.start_soon(drawing.run, IMAGE_BACKENDS[name], call, upstream)
        while running.drawings()[0] == 0:  # noqa: ASYNC110 - a log file has no event
            await trio.sleep(0.01)
        await trio.sleep(0.2)
        drawing.scope.cancel()
        assert running.drawings() == (1, 0)
        await drawing.slot_back.wait()
        assert running.drawings() == (1, 1)
        assert drawing.scope.cancelled_caught


@pytest.mark.parametrize("name", NAMES)
async def test_job_that_outlives_our_patience_holds_its_slot_to_the_end(sd_server, tmp_path, name):
    async with open_real(sd_server, tmp_path) as (upstream, running):
        call = image_call(running.base_url, size=(256, 256), options={"steps": 1}, timeout_s=0.2, unstoppable=True)
        with pytest.raises(UpstreamTimeout):
            await draw(IMAGE_BACKENDS[name], call, upstream)
        assert running.drawings() == (1, 1)


def ask_as_webuiapi(base_url):
    """An A1111 client that is none of ours; synchronous, so that it runs in a thread."""
    address = urlsplit(base_url)
    api = webuiapi.WebUIApi(host=address.hostname, port=address.port, sampler="Euler", steps=1)
    result = api.txt2img(prompt="a fox", width=64, height=64, seed=7, cfg_scale=1.0)
    return result, api.get_samplers(), api.get_sd_models(), api.get_options()


def ask_for_more_as_webuiapi(base_url):
    """Progress, an interrupt of nothing, and a refusal."""
    address = urlsplit(base_url)
    api = webuiapi.WebUIApi(host=address.hostname, port=address.port)  # asks for extensions at once
    progress = api.get_progress()
    api.interrupt()
    with pytest.raises(RuntimeError, match="Sampler not found") as caught:
        api.txt2img(prompt="a fox", sampler_name="nope")
    return progress, caught.value.args[0]


async def test_independent_client_takes_the_fake_for_a_server():
    async with open_fake_a1111(Behaviour(step_s=0.01)) as fake:
        result, samplers, models, options = await trio.to_thread.run_sync(ask_as_webuiapi, fake.base_url)
        progress, refusal = await trio.to_thread.run_sync(ask_for_more_as_webuiapi, fake.base_url)
    assert result.image.size == (64, 64)
    assert result.info["seed"] == 7
    assert result.parameters["prompt"] == "a fox"
    assert {"Euler"} <= {sampler["name"] for sampler in samplers}
    assert models[0].keys() >= {"title", "model_name", "hash"}
    assert "sd_model_checkpoint" in options
    assert (progress["progress"], progress["state"]["job_count"]) == (0, 0)
    assert refusal == 404


async def test_fake_answers_like_the_real_server(sd_server, tmp_path):
    """The same client asks both. The real one is not A1111 either: it has no info and no progress."""
    async with open_real(sd_server, tmp_path) as (_, running), open_fake_a1111(Behaviour(step_s=0.01)) as fake:
        real = await trio.to_thread.run_sync(ask_as_webuiapi, running.base_url)
        ours = await trio.to_thread.run_sync(ask_as_webuiapi, fake.base_url)
    assert real[0].image.size == ours[0].image.size
    assert real[0].image.format == ours[0].image.format
    assert real[0].json.keys() == ours[0].json.keys()
    assert real[0].parameters.keys() <= ours[0].parameters.keys()
    assert real[1][0].keys() & ours[1][0].keys() >= {"name"}
    assert real[2][0].keys() & ours[2][0].keys() >= {"title", "model_name", "hash"}
    assert ours[3].keys() <= real[3].keys()
