"""The InvokeAI backend against a real InvokeAI, which draws from random weights; the fake is held to what this one does."""

import base64
import io
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial

import openai
import pytest
import trio
from PIL import Image as Pillow
from pydantic import SecretStr

from appliance.backends.base import ImageEdit
from appliance.backends.invokeai import InvokeAIBackend
from appliance.backends.probing import probe as probe_class
from appliance.config.classes import Login
from appliance.config.settings import Settings
from appliance.protocol.errors import UpstreamFailed, UpstreamTimeout
from appliance.protocol.images import Image
from appliance.upstream.client import open_upstream
from tests.backends.calls import Drawing, draw, image_call
from tests.fakes.invokeai import Behaviour, open_fake_invokeai
from tests.process import TOKEN, start_gateway
from tests.real.invokeai import RunningInvokeAI, ensure_invokeai, open_invokeai
from tests.real.invokeai.probe import assert_like, probe
from tests.real.venvs import CannotInstall

pytestmark = pytest.mark.real

PATIENCE_S = 120.0
SLOW = {"steps": 150}  # at 256 pixels: half a minute
STEP_S = 5.0  # what the worker may need to heed a cancel: one step or node, 2.6 s was seen
QUEUE = "/v1/queue/default"


@pytest.fixture(scope="module")
def invokeai():
    try:
        return ensure_invokeai()
    except CannotInstall as problem:
        pytest.skip(f"no real InvokeAI: {problem}")


@pytest.fixture(scope="module")
def running(invokeai, tmp_path_factory):
    with open_invokeai(invokeai, tmp_path_factory.mktemp("invokeai"), max_queue_size=2) as server:
        server.install()
        yield server


@pytest.fixture
def backend():
    return InvokeAIBackend()


@asynccontextmanager
async def open_client():
    async with open_upstream(Settings()) as upstream:
        with trio.fail_after(PATIENCE_S):
            await trio.lowlevel.checkpoint()
            yield upstream


def small(running: RunningInvokeAI, **changes):
    return image_call(running.base_url, size=(64, 64), **{"options": {"steps": 2, "seed": 5}, **changes})


def slow(running: RunningInvokeAI, **changes):
    return image_call(running.base_url, size=(256, 256), **{"options": SLOW, **changes})


def pixels(image: Image) -> bytes:
    return Pillow.open(io.BytesIO(image.data)).convert("RGB").tobytes()


async def is_processing(running: RunningInvokeAI) -> bool:
    return bool((await running.ask("GET", f"{QUEUE}/status"))["processor"]["is_processing"])


async def pending(running: RunningInvokeAI) -> int:
    return int((await running.ask("GET", f"{QUEUE}/status"))["queue"]["pending"])


async def until_processing(running: RunningInvokeAI) -> None:
    while not await is_processing(running):  # noqa: ASYNC110 - the server has no event
        await trio.sleep(0.02)


async def assert_left_clean(running: RunningInvokeAI) -> None:
    assert (await running.ask("GET", "/v1/images/?limit=5"))["total"] == 0


@pytest.mark.parametrize("model", ["tiny-sd", "tiny-sdxl"])
async def test_each_family_draws_the_size_that_was_asked_for_without_text(running, backend, model):
    async with open_client() as upstream:
        call = small(running, model=model, n=2, prompt='a "red" (lighthouse)++ [and', options={"steps": 2, "seed": 5})
        result = await draw(backend, call, upstream)
    assert [Pillow.open(io.BytesIO(image.data)).size for image in result.images] == [(64, 64)] * 2
    assert all(b"lighthouse" not in image.data and b"compel" not in image.data for image in result.images)
    assert pixels(result.images[0]) != pixels(result.images[1])
    assert (result.seed, result.model) == (5, model)
    await assert_left_clean(running)


async def test_seed_decides_the_picture_and_the_next_seed_is_the_next_picture(running, backend):
    async with open_client() as upstream:
        both = await draw(backend, small(running, n=2), upstream)
        again = [
            (await draw(backend, small(running, options={"steps": 2, "seed": seed}), upstream)).images[0]
            for seed in (5, 6)
        ]
    assert [pixels(image) for image in both.images] == [pixels(image) for image in again]


async def test_names_of_other_servers_are_understood(running, backend):
    async with open_client() as upstream:
        for options in ({"sampler": "DPM++ 2M", "scheduler": "karras"}, {"sampler": "Euler a", "cfg_scale": 0.0}):
            assert (await draw(backend, small(running, options={"steps": 2, **options}), upstream)).images


async def test_what_the_mask_keeps_stays_and_what_it_opens_changes(running, backend):
    picture = io.BytesIO()
    Pillow.linear_gradient("L").convert("RGB").resize((64, 64)).save(picture, "PNG")
    mask = Pillow.new("RGBA", (64, 64), (0, 0, 0, 255))
    mask.paste((0, 0, 0, 0), (32, 0, 64, 64))
    hole = io.BytesIO()
    mask.save(hole, "PNG")
    drawn = []
    async with open_client() as upstream:
        for seed in (1, 2):
            edit = ImageEdit(Image(picture.getvalue(), "png"), Image(hole.getvalue(), "png"), strength=0.9)
            call = small(running, edit=edit, options={"steps": 8, "seed": seed})
            drawn.append(Pillow.open(io.BytesIO((await draw(backend, call, upstream)).images[0].data)).convert("RGB"))
    await assert_left_clean(running)
    kept, painted = ([each.crop(box) for each in drawn] for box in ((0, 0, 16, 64), (48, 0, 64, 64)))
    assert difference(*kept) * 3 < difference(*painted)


def difference(one, other) -> float:
    return sum(abs(a - b) for a, b in zip(one.tobytes(), other.tobytes(), strict=True)) / len(one.tobytes())


async def test_refusal_of_the_real_server_keeps_its_words_and_no_path(running, backend):
    async with open_client() as upstream:
        with pytest.raises(UpstreamFailed, match="Input should be 'ddim'") as caught:
            await draw(backend, small(running, options={"scheduler": "nope"}), upstream)
    assert caught.value.status == 422
    assert str(running.models) not in str(caught.value.extra) + caught.value.message


async def test_failure_while_drawing_tells_its_class_alone(running, backend):
    """A model that was removed since its list was read."""
    async with open_client() as upstream:
        await draw(backend, small(running, model="tiny-sd"), upstream)
        memory = backend._memories[upstream][running.base_url]
        memory.models = tuple(type(each)("gone", *_rest(each)) for each in memory.models)
        with pytest.raises(UpstreamFailed, match=r"failed to draw this: Exception\.") as caught:
            await draw(backend, small(running, options={"steps": 2, "seed": 77}), upstream)
    assert caught.value.status == 502


def _rest(model):
    return model.hash, model.name, model.base


async def test_previews_come_while_it_draws(running, backend):
    seen = []
    async with open_client() as upstream:
        call = small(
            running, options={"steps": 6, "seed": 91}, on_preview=lambda image, _progress: seen.append(image.type)
        )
        assert (await draw(backend, call, upstream)).images
    assert len(seen) >= 6
    assert set(seen) == {"jpeg"}


async def test_full_queue_is_429_and_nothing_of_ours_stays_in_it(running, backend):
    async with open_client() as upstream:
        with running.paused():
            with pytest.raises(UpstreamFailed, match="queue full") as caught:
                await draw(backend, small(running, n=4), upstream)
            assert await pending(running) == 0
    assert (caught.value.status, caught.value.retry_after_s) == (429, 5)


async def test_pending_picture_is_cancelled_before_it_is_drawn(nursery, running, backend):
    async with open_client() as upstream:
        with running.paused():
            drawing = Drawing()
            nursery.start_soon(drawing.run, backend, small(running), upstream)
            while await pending(running) == 0:  # noqa: ASYNC110 - the server has no event
                await trio.sleep(0.02)
            drawing.scope.cancel()
            with trio.fail_after(1):
                await drawing.slot_back.wait()
            assert await pending(running) == 0


async def test_an_edit_that_is_cut_off_leaves_no_picture_behind(nursery, running, backend):
    _, data = png(Pillow.linear_gradient("L").convert("RGB"))
    before = await running.ask("GET", "/v1/images/intermediates")
    async with open_client() as upstream:
        drawing = Drawing()
        edit = ImageEdit(Image(data, "png"), strength=0.9)
        nursery.start_soon(drawing.run, backend, slow(running, edit=edit), upstream)
        await until_processing(running)
        await trio.sleep(1.5)
        assert await running.ask("GET", "/v1/images/intermediates") > before
        drawing.scope.cancel()
        await drawing.slot_back.wait()
    assert await running.ask("GET", "/v1/images/intermediates") == before


@pytest.mark.parametrize("after_s", [0.0, 1.0])
async def test_running_picture_is_cancelled_and_the_slot_comes_back_when_it_is_free(nursery, running, backend, after_s):
    async with open_client() as upstream:
        drawing = Drawing()
        nursery.start_soon(drawing.run, backend, slow(running), upstream)
        await until_processing(running)
        await trio.sleep(after_s)
        drawing.scope.cancel()
        with trio.fail_after(STEP_S):
            await drawing.slot_back.wait()
        assert not await is_processing(running)
        assert drawing.scope.cancelled_caught
    await assert_left_clean(running)


async def test_batch_cancelled_while_it_is_enqueued_is_not_drawn(nursery, running, backend):
    """The moment is sought: whatever it is, nothing of ours may be left."""
    async with open_client() as upstream:
        await draw(backend, small(running), upstream)  # learns the models
        for wait_s in (0.001, 0.003, 0.006, 0.01, 0.02, 0.04):
            drawing = Drawing()
            nursery.start_soon(drawing.run, backend, slow(running), upstream)
            await trio.sleep(wait_s)
            drawing.scope.cancel()
            await drawing.slot_back.wait()
            await trio.sleep(0.3)
            assert not await is_processing(running)
            assert await pending(running) == 0


async def test_one_client_leaves_and_the_others_picture_arrives_untouched(nursery, running, backend):
    async with open_client() as upstream:
        alone = await draw(backend, small(running, options={"steps": 12, "seed": 41}), upstream)
        for order in ("leaver first", "stayer first"):
            leaver, stayer = Drawing(), Drawing()
            calls = [
                (leaver, slow(running)),
                (stayer, small(running, options={"steps": 12, "seed": 41, "cfg_scale": 7.5})),
            ]
            for drawing, call in calls if order == "leaver first" else reversed(calls):
                nursery.start_soon(drawing.run, backend, call, upstream)
                await trio.sleep(0.3)
            leaver.scope.cancel()
            await leaver.slot_back.wait()
            await stayer.slot_back.wait()
            assert stayer.result is not None
            assert pixels(stayer.result.images[0]) == pixels(alone.images[0])


async def test_picture_that_takes_too_long_is_504_and_ended(running, backend):
    async with open_client() as upstream:
        with pytest.raises(UpstreamTimeout):
            await draw(backend, slow(running, timeout_s=1), upstream)
        assert not await is_processing(running)


async def test_fake_answers_like_the_real_server(running):
    async with open_client() as upstream, open_fake_invokeai(Behaviour(max_queue_size=2)) as fake:
        real = await probe(upstream, running.base_url)
        ours = await probe(upstream, fake.base_url)
    assert_like(ours, real)


def png(image):
    file = io.BytesIO()
    image.save(file, "PNG")
    return "picture.png", file.getvalue()


async def test_the_openai_sdk_draws_watches_and_edits_through_the_running_gateway(running, tmp_path):
    def ask(gateway):
        few = {"extra_body": {"steps": 8, "seed": 66}, "prompt": "a lighthouse", "model": "tiny-sd"}
        with openai.OpenAI(base_url=gateway.url + "/v1", api_key=TOKEN, max_retries=0) as client:
            events = list(client.images.generate(size="64x64", stream=True, partial_images=2, **few))
            plain = client.images.generate(size="64x64", response_format="b64_json", **few)  # again, out of its cache
            picture = Pillow.linear_gradient("L").convert("RGB").resize((64, 64))
            mask = Pillow.new("RGBA", (64, 64), (0, 0, 0, 255))
            mask.paste((0, 0, 0, 0), (32, 0, 64, 64))
            edited = client.images.edit(
                image=png(picture), mask=png(mask), size="64x64", response_format="b64_json", **few
            )
            with pytest.raises(openai.NotFoundError, match="it has tiny-sd, tiny-sdxl"):
                client.images.generate(prompt="a lighthouse", model="dall-e-3", size="64x64")
        kinds = [event.type.rpartition(".")[2] for event in events]
        assert kinds == ["partial_image"] * 2 + ["completed"]
        drawn = [plain.data[0].b64_json, events[-1].b64_json, edited.data[0].b64_json]
        return [Pillow.open(io.BytesIO(base64.b64decode(each))) for each in drawn]

    settings = {"IMAGES_BACKEND": "http_invokeai", "IMAGES_HTTP_BASE_URL": running.base_url}
    with start_gateway(tmp_path, settings) as gateway:
        plain, watched, edited = await trio.to_thread.run_sync(ask, gateway)
    assert plain.size == edited.size == (64, 64)
    assert plain.tobytes() == watched.tobytes() != edited.tobytes()
    await assert_left_clean(running)


async def test_server_with_users_takes_the_login_of_a_plain_one(nursery, invokeai, tmp_path, backend):
    admin = {"email": "boss@example.org", "display_name": "boss", "password": "Correct-Horse-9"}
    plain = {"email": "gateway@example.org", "display_name": "gateway", "password": "Battery-Staple-8"}
    login = Login(plain["email"], SecretStr(plain["password"]))
    seen = []
    with open_invokeai(invokeai, tmp_path, multiuser=True) as running:
        running.ask_now("POST", "/v1/auth/setup", admin)
        token = running.ask_now("POST", "/v1/auth/login", admin)["token"]
        running.install(token=token)
        running.ask_now("POST", "/v1/auth/users", plain, token=token)
        call = small(running, login=login, on_preview=lambda *preview: seen.append(preview))
        async with open_client() as upstream:
            assert (await draw(backend, call, upstream)).images
            drawing = Drawing()
            nursery.start_soon(drawing.run, backend, slow(running, login=login), upstream)
            status = partial(running.ask_now, "GET", f"{QUEUE}/status", token=token)
            while not status()["processor"]["is_processing"]:  # noqa: ASYNC110 - the server has no event
                await trio.sleep(0.02)
            drawing.scope.cancel()
            with trio.fail_after(STEP_S):
                await drawing.slot_back.wait()
            assert not status()["processor"]["is_processing"]
            with pytest.raises(UpstreamFailed, match="login of IMAGES_INVOKEAI_USER"):
                wrong = Login(plain["email"], SecretStr("wrong"))
                await draw(InvokeAIBackend(), small(running, login=wrong), upstream)
            with pytest.raises(UpstreamFailed, match="set IMAGES_INVOKEAI_USER"):
                await draw(InvokeAIBackend(), small(running), upstream)
            for account, models, wants in ((login, 2, ""), (wrong, 0, "another login"), (None, 0, "a login")):
                one = replace(small(running).backend_class, provider="invokeai", login=account)
                found = await probe_class(one, upstream, 30)
                assert len(found.models) == models
                assert (found.wants or "").startswith(wants)
                assert (found.wants is None) == (not wants)
        assert running.ask_now("GET", "/v1/images/?limit=5", token=token)["total"] == 0
        running.process.kill()
        running.process.wait()
        async with open_client() as upstream:
            with pytest.raises(UpstreamFailed, match="cannot be reached"):
                await draw(backend, call, upstream)
    assert seen
