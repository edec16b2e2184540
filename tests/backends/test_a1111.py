"""The A1111 backend against its fake: options, answers, and the end of jobs that nobody waits for."""

import base64
import io

import pytest
import trio
from PIL import Image as Pillow
from pydantic import SecretStr

from appliance.backends.a1111 import A1111Backend, translate
from appliance.backends.a1111_jobs import Job
from appliance.backends.base import ImageEdit
from appliance.config.classes import Login
from appliance.config.settings import Settings
from appliance.protocol.errors import InvalidRequest, UpstreamFailed, UpstreamTimeout
from appliance.protocol.images import Image
from appliance.upstream.client import open_upstream
from tests.backends.calls import Drawing, draw, image_call
from tests.fakes.a1111 import Behaviour, open_fake_a1111
from tests.fakes.http import open_server
from tests.fakes.pictures import png

BACKEND = A1111Backend()


async def test_picture_has_the_size_that_was_asked_for_and_no_text(loopback_clock):
    async with open_upstream(Settings()) as upstream, open_fake_a1111() as fake:
        result = await draw(BACKEND, image_call(fake.base_url, n=2, options={"seed": 7}), upstream)
    assert [Pillow.open(io.BytesIO(image.data)).size for image in result.images] == [(64, 48)] * 2
    assert all(b"lighthouse" not in image.data for image in result.images)
    assert result.seed == 7
    assert fake.counts.finished == 1


def test_every_spelling_is_translated():
    options = {"num_inference_steps": 9, "guidance": 3.5, "negative": "fog", "sampler": "Euler", "scheduler": "karras"}
    payload = translate(image_call(options={**options, "seed": 5, "style": "vivid", "quality": "hd"}, model="base-xl"))
    assert payload["steps"] == 9
    assert payload["cfg_scale"] == 3.5
    assert payload["negative_prompt"] == "fog"
    assert payload["sampler_name"] == "Euler"
    assert payload["scheduler"] == "karras"
    assert payload["seed"] == 5
    assert payload["override_settings"] == {"sd_model_checkpoint": "base-xl"}
    assert payload["override_settings_restore_afterwards"] is True
    assert not {"style", "quality", "sampler", "negative", "guidance"} & payload.keys()


def test_what_was_not_asked_for_is_not_sent():
    payload = translate(image_call())
    assert payload["steps"] == 20
    assert not {"seed", "cfg_scale", "negative_prompt", "sampler_name", "override_settings"} & payload.keys()
    assert None not in payload.values()


@pytest.mark.parametrize("name", ["override_settings", "script_name", "script_args", "alwayson_scripts", "enable_hr"])
def test_unknown_field_is_refused_by_name(name):
    with pytest.raises(InvalidRequest) as caught:
        translate(image_call(extra={"user": "me", "blank": " ", "nothing": None, name: {"a": 1}}))
    assert caught.value.param == name


def test_conflicting_spellings_are_refused_naming_both():
    with pytest.raises(InvalidRequest, match=r"steps \(4\) and num_inference_steps \(9\)"):
        translate(image_call(options={"steps": 4, "num_inference_steps": 9}))


def test_equal_spellings_are_one():
    assert translate(image_call(options={"steps": 4, "num_inference_steps": 4}))["steps"] == 4


async def test_grid_before_the_pictures_is_left_out(loopback_clock):
    async with open_upstream(Settings()) as upstream, open_fake_a1111(Behaviour(grid_first=True)) as fake:
        result = await draw(BACKEND, image_call(fake.base_url, n=2), upstream)
    assert [Pillow.open(io.BytesIO(image.data)).size for image in result.images] == [(64, 48)] * 2


async def test_unknown_sampler_keeps_its_404(loopback_clock):
    async with open_upstream(Settings()) as upstream, open_fake_a1111() as fake:
        with pytest.raises(UpstreamFailed, match="Sampler not found") as caught:
            await draw(BACKEND, image_call(fake.base_url, options={"sampler": "nope"}), upstream)
    assert caught.value.status == 404


async def test_server_error_is_502_without_traceback(loopback_clock):
    trouble = 'Traceback (most recent call last):\n File "/home/me/webui/x.py", line 3\nRuntimeError: CUDA'
    async with open_upstream(Settings()) as upstream, open_fake_a1111(Behaviour(fail_with=trouble)) as fake:
        with pytest.raises(UpstreamFailed) as caught:
            await draw(BACKEND, image_call(fake.base_url), upstream)
    assert caught.value.status == 502
    assert "/home" not in str(caught.value.extra) + caught.value.message


async def test_credentials_in_the_address_are_sent_and_never_told(loopback_clock):
    async with open_upstream(Settings()) as upstream, open_fake_a1111(Behaviour(credentials="me:s p")) as fake:
        address = fake.base_url.replace("http://", "http://me:s%20p@")
        await draw(BACKEND, image_call(address), upstream)
        with pytest.raises(UpstreamFailed) as caught:
            await draw(BACKEND, image_call(address.replace("me:", "you:")), upstream)
    assert caught.value.extra["status"] == 401
    assert "s%20p" not in str(caught.value.extra) + caught.value.message


async def test_cancelled_job_is_interrupted_and_the_slot_waits_for_it(nursery, loopback_clock):
    async with open_upstream(Settings()) as upstream, open_fake_a1111(Behaviour(step_s=1.0)) as fake:
        drawing = Drawing()
        nursery.start_soon(drawing.run, BACKEND, image_call(fake.base_url), upstream)
        await fake.until_active()
        drawing.scope.cancel()
        await drawing.slot_back.wait()
        assert fake.is_idle
    assert (fake.counts.interrupted, fake.counts.finished, fake.counts.foreign_kills) == (1, 0, 0)
    assert fake.counts.interrupts_received == 1


async def test_job_cancelled_while_queued_does_not_kill_the_one_that_runs(nursery, loopback_clock):
    async with open_upstream(Settings()) as upstream, open_fake_a1111(Behaviour(step_s=0.3)) as fake:
        first, second = Drawing(), Drawing()
        nursery.start_soon(first.run, BACKEND, image_call(fake.base_url), upstream)
        await fake.until_active()
        nursery.start_soon(second.run, BACKEND, image_call(fake.base_url), upstream)
        await fake.until_queued()
        second.scope.cancel()
        await second.slot_back.wait()
        assert fake.is_idle
        assert first.slot_back.is_set()
        assert first.result is not None
    assert (fake.counts.finished, fake.counts.interrupted, fake.counts.foreign_kills) == (1, 1, 0)


async def test_running_job_cancelled_leaves_the_queued_one_alone(nursery, loopback_clock):
    async with open_upstream(Settings()) as upstream, open_fake_a1111(Behaviour(step_s=0.3)) as fake:
        first, second = Drawing(), Drawing()
        nursery.start_soon(first.run, BACKEND, image_call(fake.base_url), upstream)
        await fake.until_active()
        nursery.start_soon(second.run, BACKEND, image_call(fake.base_url), upstream)
        await fake.until_queued()
        first.scope.cancel()
        await second.slot_back.wait()
        assert second.result is not None
    assert (fake.counts.finished, fake.counts.interrupted, fake.counts.foreign_kills) == (1, 1, 0)


async def test_job_about_to_end_is_left_to_end(nursery, loopback_clock):
    async with open_upstream(Settings()) as upstream, open_fake_a1111(Behaviour(step_s=0.02, encode_s=1.0)) as fake:
        drawing = Drawing()
        nursery.start_soon(drawing.run, BACKEND, image_call(fake.base_url), upstream)
        await fake.until_active()
        await trio.sleep(0.45)
        drawing.scope.cancel()
        await drawing.slot_back.wait()
        assert fake.is_idle
    assert (fake.counts.finished, fake.counts.interrupts_received) == (1, 0)


async def test_job_that_the_server_has_not_registered_yet_is_found(nursery, loopback_clock):
    async with open_upstream(Settings()) as upstream, open_fake_a1111(Behaviour(step_s=1, registering_s=0.5)) as fake:
        drawing = Drawing()
        nursery.start_soon(drawing.run, BACKEND, image_call(fake.base_url), upstream)
        await trio.sleep(0.25)
        assert fake.payloads
        drawing.scope.cancel()
        await drawing.slot_back.wait()
        assert fake.is_idle
    assert fake.counts.interrupted == 1


async def test_job_that_raised_and_stays_active_in_the_books_is_over(nursery, loopback_clock):
    async with open_upstream(Settings()) as upstream, open_fake_a1111(Behaviour(step_s=1)) as fake:
        blocker, drawing = Drawing(), Drawing()
        nursery.start_soon(blocker.run, BACKEND, image_call(fake.base_url, options={"steps": 1}), upstream)
        await fake.until_active()
        nursery.start_soon(drawing.run, BACKEND, image_call(fake.base_url), upstream)
        await fake.until_queued()
        fake.behaviour.fail_with = "CUDA error"
        drawing.scope.cancel()
        with trio.fail_after(10):
            await drawing.slot_back.wait()
        assert fake.current_task is not None


async def test_timeout_of_ours_ends_the_job_too(loopback_clock):
    async with open_upstream(Settings()) as upstream, open_fake_a1111(Behaviour(step_s=1)) as fake:
        with pytest.raises(UpstreamTimeout, match="first byte"):
            await draw(BACKEND, image_call(fake.base_url, timeout_s=5), upstream)
        assert fake.is_idle
    assert fake.counts.interrupted == 1


async def test_dead_server_gives_the_slot_back_at_once(nursery, loopback_clock):
    async with open_upstream(Settings()) as upstream, open_fake_a1111(Behaviour(step_s=1)) as fake:
        drawing = Drawing()
        nursery.start_soon(drawing.run, BACKEND, image_call(fake.base_url), upstream)
        await fake.until_active()
        fake.server.die()
        with trio.fail_after(1):
            await drawing.slot_back.wait()
    assert isinstance(drawing.error, UpstreamFailed)


async def test_stuck_job_holds_the_slot_to_the_bound_and_no_longer(nursery, loopback_clock):
    async with open_upstream(Settings()) as upstream, open_fake_a1111(Behaviour(step_s=10_000)) as fake:
        drawing = Drawing()
        nursery.start_soon(drawing.run, BACKEND, image_call(fake.base_url, cancel_timeout_s=7), upstream)
        await fake.until_active()
        drawing.scope.cancel()
        started = trio.current_time()
        await drawing.slot_back.wait()
        assert 6.9 < trio.current_time() - started < 7.5


@pytest.mark.parametrize("observable", [True, False])
async def test_untrackable_job_is_held_to_its_end_and_never_interrupted(nursery, loopback_clock, observable):
    behaviour = Behaviour(step_s=1, tracked=False, observable=observable)
    async with open_upstream(Settings()) as upstream, open_fake_a1111(behaviour) as fake:
        drawing = Drawing()
        nursery.start_soon(drawing.run, BACKEND, image_call(fake.base_url), upstream)
        await fake.until_active()
        drawing.scope.cancel()
        with trio.fail_after(22):  # twenty steps of a second, and not the bound of sixty
            await drawing.slot_back.wait()
        assert fake.is_idle
        assert drawing.result is None
        assert drawing.scope.cancelled_caught
    assert (fake.counts.finished, fake.counts.interrupts_received) == (1, 0)
    assert fake.statistics.connections == 0


async def test_untrackable_job_that_never_ends_is_bounded(nursery, loopback_clock):
    behaviour = Behaviour(step_s=10_000, tracked=False, observable=False)
    async with open_upstream(Settings()) as upstream, open_fake_a1111(behaviour) as fake:
        drawing = Drawing()
        nursery.start_soon(drawing.run, BACKEND, image_call(fake.base_url, cancel_timeout_s=7), upstream)
        await fake.until_active()
        drawing.scope.cancel()
        started = trio.current_time()
        await drawing.slot_back.wait()
        assert 6.9 < trio.current_time() - started < 7.5


async def test_untrackable_server_without_an_answer_is_asked_whether_it_is_idle(loopback_clock):
    async with open_upstream(Settings()) as upstream, open_fake_a1111(Behaviour(step_s=1, tracked=False)) as fake:
        with pytest.raises(UpstreamTimeout):
            await draw(BACKEND, image_call(fake.base_url, timeout_s=5), upstream)
        assert fake.is_idle
    assert (fake.counts.finished, fake.counts.interrupts_received) == (1, 0)


@pytest.mark.parametrize("status", [401, 500, 200])
async def test_server_that_answers_looks_with_nonsense_is_held_to_the_bound(nursery, loopback_clock, status):
    """Nothing is known, so nothing is interrupted and the slot is not given away early."""
    posted = trio.Event()

    async def handle(request):
        if request.path == "/internal/progress" and not posted.is_set():
            await request.respond_json(200, {"active": False, "queued": False, "completed": False})
        elif request.path == "/sdapi/v1/txt2img":
            posted.set()
            await request.hung_up()
        else:
            assert request.path != "/sdapi/v1/interrupt"
            await request.respond(status, b"<html>")

    async with open_upstream(Settings()) as upstream, open_server(handle) as server:
        drawing = Drawing()
        nursery.start_soon(drawing.run, BACKEND, image_call(server.base_url, cancel_timeout_s=7), upstream)
        await posted.wait()
        drawing.scope.cancel()
        started = trio.current_time()
        await drawing.slot_back.wait()
        assert 6.9 < trio.current_time() - started < 7.5


@pytest.mark.parametrize("answer", [b"<html>", b"{}", b"[]"])
async def test_server_whose_every_path_answers_200_is_not_trackable(loopback_clock, answer):
    async def handle(request):
        await request.respond(200, answer)

    async with open_upstream(Settings()) as upstream, open_server(handle) as server:
        assert not await Job(image_call(server.base_url), upstream).is_trackable()


async def test_server_too_busy_to_say_is_asked_to_draw_all_the_same(loopback_clock):
    async def handle(request):
        await request.hung_up()

    async with open_upstream(Settings()) as upstream, open_server(handle) as server:
        assert await Job(image_call(server.base_url), upstream).is_trackable()


async def test_call_that_was_never_sent_leaves_nothing_to_end(loopback_clock):
    async with open_upstream(Settings()) as upstream, open_fake_a1111() as fake:
        await Job(image_call(fake.base_url), upstream).end()
        assert not fake.statistics.requests


async def test_previews_of_our_own_job_are_shown_at_quarters_of_it(loopback_clock):
    shown = []
    async with open_upstream(Settings()) as upstream, open_fake_a1111() as fake:

        def show(image, progress=None):
            shown.append((image, progress, trio.current_time()))

        result = await draw(BACKEND, image_call(fake.base_url, model="base-xl", on_preview=show), upstream)
        assert fake.payloads[0]["override_settings"] == {
            "sd_model_checkpoint": "base-xl",
            "show_progress_every_n_steps": 5,
        }
        drawn_at = fake.previewed_at
    assert [round(progress, 2) for _, progress, _ in shown] == [0.25, 0.5, 0.75]
    assert all(image.type == "png" and b"prompt" not in image.data for image, _, _ in shown)
    assert max(at - drawn for (_, _, at), drawn in zip(shown, drawn_at, strict=True)) < 0.05
    assert result.images


async def test_previews_of_another_clients_job_are_never_shown(nursery, loopback_clock):
    shown = []
    async with open_upstream(Settings()) as upstream, open_fake_a1111() as fake:
        first = Drawing()
        nursery.start_soon(first.run, BACKEND, image_call(fake.base_url), upstream)
        await fake.until_active()

        def show(image, progress=None):
            shown.append(fake.current_task)

        call = image_call(fake.base_url, on_preview=show)
        assert (await draw(BACKEND, call, upstream)).images
    assert set(shown) == {f"task({call.request_id})"}


async def test_a_call_with_previews_raises_as_one_without(loopback_clock):
    async with open_upstream(Settings()) as upstream, open_fake_a1111(Behaviour(fail_with="CUDA")) as fake:
        with pytest.raises(UpstreamFailed):
            await draw(BACKEND, image_call(fake.base_url, on_preview=print, cancel_timeout_s=5), upstream)
    assert fake.previewed_at == []


@pytest.mark.parametrize("spoilt", [{"live_preview": 5}, {"live_preview": "data:,x"}, {"id_live_preview": "x"}, None])
async def test_a_preview_that_cannot_be_read_costs_no_picture(loopback_clock, spoilt):
    async with open_upstream(Settings()) as upstream, open_fake_a1111() as fake:
        honest = fake.progress_of

        def spoil(question):
            return {**honest(question), **spoilt} if spoilt and question["live_preview"] else honest(question)

        fake.progress_of = spoil
        assert (await draw(BACKEND, image_call(fake.base_url, on_preview=lambda *_: None), upstream)).images


async def test_a_preview_beside_a_task_that_is_not_active_is_somebody_elses(loopback_clock):
    shown = []
    async with open_upstream(Settings()) as upstream, open_fake_a1111() as fake:
        honest = fake.progress_of
        theirs = {
            "active": False,
            "live_preview": "data:," + base64.b64encode(png(8, 8)).decode(),
            "id_live_preview": 9,
        }
        fake.progress_of = lambda question: {**honest(question), **theirs}
        call = image_call(fake.base_url, on_preview=lambda *found: shown.append(found))
        assert (await draw(BACKEND, call, upstream)).images
    assert shown == []


async def test_a_server_with_a_password_is_sent_it_with_every_request(loopback_clock):
    login = Login("me", SecretStr("pass:word"))
    async with open_upstream(Settings()) as upstream, open_fake_a1111(Behaviour(credentials="me:pass:word")) as fake:
        assert (await draw(BACKEND, image_call(fake.base_url, login=login), upstream)).images
        with pytest.raises(UpstreamFailed) as caught:
            await draw(BACKEND, image_call(fake.base_url), upstream)
    assert caught.value.extra["status"] == 401
    assert "pass:word" not in str(login)


async def test_a_cancelled_job_on_a_server_with_a_password_is_interrupted(nursery, loopback_clock):
    login = Login("me", SecretStr("x"))
    async with (
        open_upstream(Settings()) as upstream,
        open_fake_a1111(Behaviour(credentials="me:x", step_s=1)) as fake,
    ):
        drawing = Drawing()
        call = image_call(fake.base_url, login=login, on_preview=lambda *_: None)
        nursery.start_soon(drawing.run, BACKEND, call, upstream)
        await fake.until_active()
        await trio.sleep(1.5)
        drawing.scope.cancel()
        await drawing.slot_back.wait()
        assert (fake.counts.interrupted, fake.is_idle) == (1, True)


async def test_an_edit_is_img2img_and_its_mask_is_white_on_black(loopback_clock):
    picture, mask = Pillow.new("RGB", (64, 48), "red"), Pillow.new("RGBA", (64, 48))
    mask.paste((0, 0, 0, 255), (0, 0, 32, 48))
    edit = ImageEdit(Image(encoded(picture), "png"), Image(encoded(mask), "png"), strength=0.4)
    async with open_upstream(Settings()) as upstream, open_fake_a1111() as fake:
        result = await draw(BACKEND, image_call(fake.base_url, edit=edit, n=2), upstream)
    (payload,) = fake.payloads
    assert len(result.images) == 2
    assert [base64.b64decode(item) for item in payload["init_images"]] == [edit.image.data]
    assert (payload["denoising_strength"], payload["inpainting_fill"], payload["width"]) == (0.4, 1, 64)
    sent = Pillow.open(io.BytesIO(base64.b64decode(payload["mask"])))
    assert (sent.mode, sent.getpixel((0, 0)), sent.getpixel((63, 47))) == ("L", 0, 255)
    assert not {"init_images", "mask"} & result.request.keys()


async def test_an_edit_without_mask_and_strength_names_neither(loopback_clock):
    edit = ImageEdit(Image(encoded(Pillow.new("RGB", (8, 8))), "png"))
    async with open_upstream(Settings()) as upstream, open_fake_a1111() as fake:
        await draw(BACKEND, image_call(fake.base_url, edit=edit), upstream)
    assert not {"mask", "inpainting_fill", "denoising_strength"} & fake.payloads[0].keys()


async def test_a_mask_that_cannot_be_used_is_refused_before_anything_is_drawn(loopback_clock):
    plain = Image(encoded(Pillow.new("RGB", (8, 8))), "png")
    async with open_upstream(Settings()) as upstream, open_fake_a1111() as fake:
        with pytest.raises(InvalidRequest, match="alpha channel"):
            await draw(BACKEND, image_call(fake.base_url, edit=ImageEdit(plain, plain)), upstream)
    assert fake.payloads == []


def encoded(picture):
    out = io.BytesIO()
    picture.save(out, "png")
    return out.getvalue()
