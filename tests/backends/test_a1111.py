"""The A1111 backend against its fake: options, answers, and the end of jobs that nobody waits for."""

import io

import pytest
import trio
from PIL import Image as Pillow

from appliance.backends.a1111 import A1111Backend, translate
from appliance.backends.a1111_jobs import Job
from appliance.config.settings import Settings
from appliance.protocol.errors import InvalidRequest, UpstreamFailed, UpstreamTimeout
from appliance.upstream.client import open_upstream
from tests.backends.calls import Drawing, draw, image_call
from tests.fakes.a1111 import Behaviour, open_fake_a1111
from tests.fakes.http import open_server

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
