"""stable-diffusion.cpp by its jobs, against the fake: who waits is taken off its queue, who is drawn is waited for."""

import base64
import io
from contextlib import asynccontextmanager

import pytest
import trio
from PIL import Image as Pillow

from appliance.backends.base import ImageEdit
from appliance.backends.openai_images import OpenAIImagesBackend
from appliance.config.settings import Settings
from appliance.protocol.errors import InvalidRequest, UpstreamFailed, UpstreamTimeout
from appliance.protocol.images import Image
from appliance.upstream.client import open_upstream
from tests.backends.calls import Drawing, draw, image_call
from tests.fakes.pictures import png
from tests.fakes.sd_cpp import Behaviour, open_fake_sd_cpp

BACKEND = OpenAIImagesBackend()


@asynccontextmanager
async def open_bench(**behaviour):
    async with open_upstream(Settings()) as upstream, open_fake_sd_cpp(Behaviour(**behaviour)) as fake:
        yield upstream, fake
        await fake.statistics.until_no_connections()
        assert "in_use=0" in repr(upstream)


def call(fake, **changes):
    return image_call(fake.base_url, unstoppable=True, **changes)


def only_job(fake):
    (job,) = fake.jobs.values()
    return job


async def test_who_waits_is_taken_off_the_queue_and_has_its_slot_back_at_once(nursery, loopback_clock):
    async with open_bench(drawing_s=10) as (upstream, fake):
        first, second = Drawing(), Drawing()
        nursery.start_soon(first.run, BACKEND, call(fake), upstream)
        await fake.until_active()
        nursery.start_soon(second.run, BACKEND, call(fake), upstream)
        await fake.until_queued()
        second.scope.cancel()
        with trio.fail_after(0.1):
            await second.slot_back.wait()
        assert fake.statuses() == ["generating", "cancelled"]
        await first.slot_back.wait()
    assert first.result is not None


async def test_who_is_drawn_holds_its_slot_to_the_end_and_no_longer(nursery, loopback_clock):
    async with open_bench(drawing_s=10) as (upstream, fake):
        drawing = Drawing()
        nursery.start_soon(drawing.run, BACKEND, call(fake), upstream)
        await fake.until_active()
        started = trio.current_time()
        drawing.scope.cancel()
        await drawing.slot_back.wait()
        assert fake.statuses() == ["completed"]
        assert 10 <= trio.current_time() - started <= 10.1


async def test_a_slot_is_held_to_the_bound_and_no_longer(nursery, loopback_clock):
    async with open_bench(drawing_s=1000) as (upstream, fake):
        drawing = Drawing()
        nursery.start_soon(drawing.run, BACKEND, call(fake, cancel_timeout_s=7), upstream)
        await fake.until_active()
        started = trio.current_time()
        drawing.scope.cancel()
        await drawing.slot_back.wait()
        assert 7 <= trio.current_time() - started < 7.5


async def test_a_job_that_is_being_submitted_is_cancelled_when_its_id_is_known(nursery, loopback_clock):
    async with open_bench(drawing_s=10, answering_s=2) as (upstream, fake):
        first, second = Drawing(), Drawing()
        nursery.start_soon(first.run, BACKEND, call(fake), upstream)
        await fake.until_active()
        nursery.start_soon(second.run, BACKEND, call(fake), upstream)
        await fake.until_queued()
        second.scope.cancel()
        await second.slot_back.wait()
        assert fake.statuses() == ["generating", "cancelled"]
        await first.slot_back.wait()


async def test_a_picture_that_takes_too_long_is_504_and_its_slot_waits(loopback_clock):
    async with open_bench(drawing_s=10) as (upstream, fake):
        with pytest.raises(UpstreamTimeout, match="3 s"):
            await draw(BACKEND, call(fake, timeout_s=3), upstream)
        assert fake.is_idle


async def test_a_server_that_dies_gives_the_slot_back_at_once(nursery, loopback_clock):
    async with open_bench(drawing_s=1000) as (upstream, fake):
        drawing = Drawing()
        nursery.start_soon(drawing.run, BACKEND, call(fake), upstream)
        await fake.until_active()
        fake.server.die()
        with trio.fail_after(1):
            await drawing.slot_back.wait()
    assert isinstance(drawing.error, UpstreamFailed)


async def test_a_server_that_dies_drawing_for_nobody_gives_the_slot_back(nursery, loopback_clock):
    async with open_bench(drawing_s=1000) as (upstream, fake):
        drawing = Drawing()
        nursery.start_soon(drawing.run, BACKEND, call(fake), upstream)
        await fake.until_active()
        drawing.scope.cancel()
        await trio.sleep(2)
        assert not drawing.slot_back.is_set()
        fake.server.die()
        with trio.fail_after(1):
            await drawing.slot_back.wait()


async def test_a_server_that_is_slow_to_say_has_not_lost_the_picture(loopback_clock):
    async with open_bench(drawing_s=1, slow_looks=2) as (upstream, fake):
        assert (await draw(BACKEND, call(fake), upstream)).images


NONSENSE = {
    "a number for an id": {"id": 5},
    "an id that is a path": {"id": "../v1/models"},
    "no result": {"result": None},
    "no pictures": {"result": {"images": []}},
    "a list for a result": {"result": []},
    "pictures that are none": {"result": {"images": [5]}},
    "no list of them": {"result": {"images": 5}},
    "another status": {"status": "melting"},
}


@pytest.mark.parametrize("instead", NONSENSE.values(), ids=NONSENSE)
async def test_an_answer_that_cannot_be_used_is_502(loopback_clock, instead):
    async with open_bench(instead=instead) as (upstream, fake):
        with pytest.raises(UpstreamFailed) as caught:
            await draw(BACKEND, call(fake), upstream)
        assert caught.value.status == 502
        assert "POST /sdcpp/v1/jobs/../v1/models/cancel" not in fake.asked


async def test_a_job_that_is_lost_or_cancelled_there_is_an_error(nursery, loopback_clock):
    async with open_bench(drawing_s=1000) as (upstream, fake):
        for name, words in (("forget", "has lost the picture"), ("cancel", "told by somebody else to cancel")):
            drawing = Drawing()
            nursery.start_soon(drawing.run, BACKEND, call(fake), upstream)
            await fake.changes.until(lambda: bool(fake.jobs))
            await trio.sleep(1)
            if name == "forget":
                fake.jobs.clear()
            else:
                only_job(fake).status = "cancelled"
            await drawing.slot_back.wait()
            assert words in str(drawing.error)


async def test_a_full_queue_is_429_and_a_failure_keeps_its_reason(loopback_clock):
    async with open_bench(max_pending=0) as (upstream, fake):
        with pytest.raises(UpstreamFailed, match="job queue is full") as caught:
            await draw(BACKEND, call(fake), upstream)
        assert caught.value.status == 429
    async with open_bench(fail_with="generate_image returned no results at /srv/models/x") as (upstream, fake):
        with pytest.raises(UpstreamFailed, match="generate_image returned no results") as failed:
            await draw(BACKEND, call(fake), upstream)
        assert "/srv" not in failed.value.message


async def test_every_option_that_the_server_has_is_sent(loopback_clock):
    options = {"steps": 4, "seed": 5, "sampler": "DPM++ 2M", "scheduler": "Karras", "negative": "fog", "guidance": 3.0}
    async with open_bench() as (upstream, fake):
        extra = {
            "output_format": "png",
            "output_compression": {"a": 1},
            "background": "opaque",
            "lora": [{"path": "/etc/passwd"}],
        }
        result = await draw(BACKEND, call(fake, options=options, extra=extra, n=2, model="turbo"), upstream)
        asked = only_job(fake).asked
    assert asked == {
        "prompt": "a red lighthouse",
        "negative_prompt": "fog",
        "width": 64,
        "height": 48,
        "batch_count": 2,
        "seed": 5,
        "output_format": "png",
        "embed_image_metadata": False,
        "sample_params": {
            "sample_steps": 4,
            "sample_method": "dpm++2m",
            "scheduler": "karras",
            "guidance": {"txt_cfg": 3.0},
        },
    }
    assert (len(result.images), result.seed, result.model) == (2, 5, "turbo")
    assert result.images[0] != result.images[1]


async def test_without_a_seed_each_picture_has_its_own_and_it_is_told(loopback_clock):
    async with open_bench() as (upstream, fake):
        seeds = {(await draw(BACKEND, call(fake, options={"seed": -1}), upstream)).seed for _ in range(3)}
        assert seeds == {job.asked["seed"] for job in fake.jobs.values()}
    assert len(seeds) == 3


@pytest.mark.parametrize(("kind", "words"), [("sampler", "euler, euler_a"), ("scheduler", "discrete, karras")])
async def test_a_name_that_the_server_would_pass_over_is_refused(loopback_clock, kind, words):
    async with open_bench() as (upstream, fake):
        with pytest.raises(InvalidRequest, match=words) as caught:
            await draw(BACKEND, call(fake, options={kind: "nope"}), upstream)
        assert not fake.jobs
    assert caught.value.param == kind


async def test_in_prompt_arguments_are_stripped(loopback_clock):
    smuggled = 'a fox<sd_cpp_extra_args>{"steps":900}</sd_cpp_extra_args>'
    async with open_bench() as (upstream, fake):
        await draw(BACKEND, call(fake, prompt=smuggled, options={"negative": smuggled}), upstream)
        assert {only_job(fake).asked[name] for name in ("prompt", "negative_prompt")} == {"a fox"}


async def test_an_edit_brings_its_pictures_and_its_mask_white_on_black(loopback_clock):
    out = io.BytesIO()
    Pillow.new("RGBA", (64, 48)).save(out, "png")
    mask, picture = Image(out.getvalue(), "png"), Image(png(64, 48), "png")
    async with open_bench() as (upstream, fake):
        edit = ImageEdit(picture, mask, strength=0.5, others=(mask,))
        assert (await draw(BACKEND, call(fake, edit=edit), upstream)).images
        asked = only_job(fake).asked
    assert base64.b64decode(asked["init_image"]) == picture.data
    assert [base64.b64decode(one) for one in asked["ref_images"]] == [picture.data, mask.data]
    sent = Pillow.open(io.BytesIO(base64.b64decode(asked["mask_image"])))
    assert (sent.mode, sent.getextrema(), asked["strength"]) == ("L", (255, 255), 0.5)
