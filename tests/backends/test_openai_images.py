"""The OpenAI-style backend against its fake: options, good answers, hostile ones, and stalls."""

import io

import pytest
import trio
from PIL import Image as Pillow

from appliance.backends.base import ImageEdit
from appliance.backends.openai_images import OpenAIImagesBackend, endpoint, translate
from appliance.config.settings import Settings
from appliance.protocol.errors import InvalidRequest, UpstreamFailed, UpstreamTimeout
from appliance.protocol.images import Image
from appliance.upstream.client import open_upstream
from tests.backends.calls import Drawing, draw, image_call
from tests.fakes.http import open_server
from tests.fakes.openai_images import GOOD, HOSTILE, REFUSALS, STALLS, open_fake_openai_images

BACKEND = OpenAIImagesBackend()


@pytest.mark.parametrize("base", ["http://h:1", "http://h:1/", "http://h:1/v1", "http://h:1/v1/"])
def test_one_v1_is_used(base):
    assert endpoint(base) == "http://h:1/v1/images/generations"


def test_base_path_is_kept():
    assert endpoint("http://h:1/api/v1") == "http://h:1/api/v1/images/generations"


def test_aliases_are_filled_in_both_ways():
    payload = translate(image_call(options={"num_inference_steps": 9, "cfg_scale": 2.5, "negative": "fog"}))
    assert (payload["steps"], payload["num_inference_steps"]) == (9, 9)
    assert (payload["guidance"], payload["guidance_scale"], payload["cfg_scale"]) == (2.5, 2.5, 2.5)
    assert (payload["negative"], payload["negative_prompt"]) == ("fog", "fog")


def test_turbo_model_without_guidance_gets_none():
    assert translate(image_call(model="SDXL-Turbo"))["guidance_scale"] == 0
    assert translate(image_call(model="SDXL-Turbo", options={"guidance": 3.0}))["cfg_scale"] == 3.0
    assert "guidance" not in translate(image_call(model="sdxl"))


@pytest.mark.parametrize("model", [None, "auto", "AUTO"])
def test_auto_is_never_sent(model):
    assert "model" not in translate(image_call(model=model))


def test_gpt_image_is_not_asked_for_a_response_format():
    assert "response_format" not in translate(image_call(model="gpt-image-1"))
    assert translate(image_call(model="dall-e-3"))["response_format"] == "b64_json"


def test_extra_fields_are_passed_on_but_not_those_that_are_decided_here():
    extra = {"background": "transparent", "lora": {"name": "x"}, "blank": "", "nothing": None, "stream": True, "n": 9}
    payload = translate(image_call(extra=extra))
    assert payload["background"] == "transparent"
    assert payload["lora"] == {"name": "x"}
    assert payload["n"] == 1
    assert not {"blank", "nothing", "stream"} & payload.keys()


def test_conflicting_guidance_is_refused():
    with pytest.raises(InvalidRequest):
        translate(image_call(options={"guidance": 1.0, "cfg_scale": 2.0}))


@pytest.mark.parametrize(
    "prompt",
    [
        'a cat<sd_cpp_extra_args>{"seed":1}</sd_cpp_extra_args>',
        "<SD_CPP_EXTRA_ARGS>{}</sd_cpp_extra_args>a cat",
        "a cat <sd_cpp_<sd_cpp_extra_args>x</sd_cpp_extra_args>extra_args>{}</sd_cpp_extra_args>",
        "a cat <sd_cpp_extra_args>" * 3,
    ],
)
def test_arguments_inside_the_prompt_are_taken_out(prompt):
    sent = translate(image_call(prompt=prompt, options={"negative": prompt}))
    assert "<sd_cpp_extra_args>" not in (sent["prompt"] + sent["negative"]).lower()
    assert "a cat" in sent["prompt"]


async def test_pictures_arrive_with_what_the_server_says(loopback_clock):
    async with open_upstream(Settings()) as upstream, open_fake_openai_images() as fake:
        fake.extra_fields = {"seed": 42}
        result = await draw(BACKEND, image_call(fake.base_url, n=3, model="m"), upstream)
    assert [Pillow.open(io.BytesIO(image.data)).size for image in result.images] == [(64, 48)] * 3
    assert all(b"lighthouse" not in image.data for image in result.images)
    assert (result.seed, result.model) == (42, "m")
    assert result.request is not None
    assert result.request["size"] == "64x48"
    assert result.upstream == {"created": 1, "output_format": "png"}


@pytest.mark.parametrize("script", GOOD)
async def test_unusual_but_good_answer_is_served(loopback_clock, script):
    async with open_upstream(Settings()) as upstream, open_fake_openai_images(script=script) as fake:
        result = await draw(BACKEND, image_call(fake.base_url), upstream)
    assert Pillow.open(io.BytesIO(result.images[0].data)).size == (8, 8)


@pytest.mark.parametrize("script", HOSTILE)
async def test_hostile_answer_is_502_and_the_next_call_works(loopback_clock, script):
    async with open_upstream(Settings()) as upstream, open_fake_openai_images(script=script) as fake:
        with pytest.raises(UpstreamFailed) as caught:
            await draw(BACKEND, image_call(fake.base_url, images_max_bytes=1_000_000), upstream)
        fake.script = None
        assert (await draw(BACKEND, image_call(fake.base_url), upstream)).images
        await fake.statistics.until_no_connections()
    error = caught.value
    assert error.status == 502
    assert error.extra["upstream"] == "gpu_heavy"
    told = error.message + str(error.extra)
    assert "127.0.0" not in told
    assert "sk-abc" not in told
    assert len(told) < 4000


@pytest.mark.parametrize("script", STALLS)
async def test_stall_is_504_naming_the_deadline(loopback_clock, script):
    async with open_upstream(Settings()) as upstream, open_fake_openai_images(script=script) as fake:
        with pytest.raises(UpstreamTimeout, match=r"gpu_heavy .* \((first byte|idle|total) deadline\)") as caught:
            await draw(BACKEND, image_call(fake.base_url, timeout_s=20, idle_timeout_s=5), upstream)
        await fake.statistics.until_no_connections()
    assert caught.value.status == 504


@pytest.mark.parametrize("script", REFUSALS)
async def test_clients_own_fault_keeps_its_status(loopback_clock, script):
    async with open_upstream(Settings()) as upstream, open_fake_openai_images(script=script) as fake:
        with pytest.raises(UpstreamFailed) as caught:
            await draw(BACKEND, image_call(fake.base_url), upstream)
    assert caught.value.status == int(script[:3])
    assert caught.value.retry_after_s == (7 if script.startswith("429") else None)


async def test_picture_larger_than_the_class_allows_is_502(loopback_clock):
    async with open_upstream(Settings()) as upstream, open_fake_openai_images() as fake:
        with pytest.raises(UpstreamFailed, match="images_max_bytes"):
            await draw(BACKEND, image_call(fake.base_url, images_max_bytes=40), upstream)


async def test_server_that_cannot_stop_keeps_the_slot_until_it_answers(nursery, loopback_clock):
    async with open_upstream(Settings()) as upstream, open_fake_openai_images(drawing_s=10) as fake:
        fake.stoppable = False
        drawing = Drawing()
        nursery.start_soon(drawing.run, BACKEND, image_call(fake.base_url, unstoppable=True), upstream)
        await fake.until_drawing()
        await trio.sleep(1)
        drawing.scope.cancel()
        await drawing.slot_back.wait()
        assert (fake.drawing, fake.drawn) == (0, 1)
        assert drawing.result is None


async def test_server_that_cannot_stop_keeps_the_slot_to_the_bound_and_no_longer(nursery, loopback_clock):
    async with open_upstream(Settings()) as upstream, open_fake_openai_images(drawing_s=1000) as fake:
        fake.stoppable = False
        drawing = Drawing()
        nursery.start_soon(
            drawing.run, BACKEND, image_call(fake.base_url, cancel_timeout_s=7, unstoppable=True), upstream
        )
        await fake.until_drawing()
        await trio.sleep(1)
        drawing.scope.cancel()
        started = trio.current_time()
        await drawing.slot_back.wait()
        assert 6.9 < trio.current_time() - started < 7.5


async def test_picture_on_another_port_is_not_fetched(loopback_clock):
    async with open_upstream(Settings()) as upstream, open_fake_openai_images() as other:

        async def handle(request):
            await request.respond_json(200, {"data": [{"url": other.base_url + "/picture.png"}]})

        async with open_server(handle) as server:
            with pytest.raises(UpstreamFailed, match="another host"):
                await draw(BACKEND, image_call(server.base_url), upstream)
        assert not other.statistics.connections_ever


async def test_slot_waits_for_a_server_that_draws_on_when_our_own_patience_ends(nursery, loopback_clock):
    async with open_upstream(Settings()) as upstream, open_fake_openai_images(drawing_s=10) as fake:
        fake.stoppable = False
        drawing = Drawing()
        started = trio.current_time()
        nursery.start_soon(drawing.run, BACKEND, image_call(fake.base_url, timeout_s=3, unstoppable=True), upstream)
        await drawing.slot_back.wait()
        assert (fake.drawing, fake.drawn) == (0, 1)
        assert trio.current_time() - started == pytest.approx(10, abs=0.5)
        assert isinstance(drawing.error, UpstreamTimeout)
        assert "did not answer within 3 s" in drawing.error.message


async def test_slot_waits_no_longer_than_the_bound_when_our_own_patience_ends(nursery, loopback_clock):
    async with open_upstream(Settings()) as upstream, open_fake_openai_images(drawing_s=100) as fake:
        fake.stoppable = False
        drawing = Drawing()
        started = trio.current_time()
        call = image_call(fake.base_url, timeout_s=3, cancel_timeout_s=20, unstoppable=True)
        nursery.start_soon(drawing.run, BACKEND, call, upstream)
        await drawing.slot_back.wait()
        assert trio.current_time() - started == pytest.approx(23, abs=0.5)
        assert isinstance(drawing.error, UpstreamTimeout)


def pictures():
    out = io.BytesIO()
    Pillow.new("RGBA", (64, 48)).save(out, "png")
    return Image(out.getvalue(), "png"), Image(b"\xff\xd8\xff\xe0 another", "jpeg")


@pytest.mark.parametrize("with_more", [False, True])
async def test_an_edit_is_a_form_with_the_pictures_as_they_came(loopback_clock, with_more):
    mask, other = pictures()
    edit = ImageEdit(other, mask, strength=0.5, others=(mask,) if with_more else ())
    call_of = {"prompt": 'a "cat"\r\n--x', "n": 2, "options": {"steps": 4}, "extra": {"background": "opaque"}}
    async with open_upstream(Settings()) as upstream, open_fake_openai_images() as fake:
        result = await draw(BACKEND, image_call(fake.base_url, edit=edit, **call_of), upstream)
    (payload,), (files,) = fake.payloads, fake.files
    assert len(result.images) == 2
    assert payload["prompt"] == 'a "cat"\r\n--x'
    assert {"n": 2, "size": "64x48", "steps": "4", "strength": "0.5", "background": "opaque"}.items() <= payload.items()
    name = "image[]" if with_more else "image"
    more = [(name, mask.data)] if with_more else []
    assert files == [(name, other.data), *more, ("mask", mask.data)]


async def test_stable_diffusion_cpp_is_sent_its_mask_white_on_black(loopback_clock):
    mask, other = pictures()
    async with open_upstream(Settings()) as upstream, open_fake_openai_images() as fake:
        await draw(BACKEND, image_call(fake.base_url, edit=ImageEdit(other, mask), unstoppable=True), upstream)
    sent = Pillow.open(io.BytesIO(dict(fake.files[0])["mask"]))
    assert (sent.mode, sent.getextrema()) == ("L", (255, 255))


async def test_an_edit_whose_caller_leaves_is_aborted(nursery, loopback_clock):
    mask, other = pictures()
    async with open_upstream(Settings()) as upstream, open_fake_openai_images(drawing_s=10) as fake:
        drawing = Drawing()
        nursery.start_soon(drawing.run, BACKEND, image_call(fake.base_url, edit=ImageEdit(other, mask)), upstream)
        await fake.until_drawing()
        drawing.scope.cancel()
        await drawing.slot_back.wait()
        await fake.changes.until(lambda: fake.aborted == 1)
