"""Previews of A1111: of our own job alone, at quarters of it, and never worth a picture."""

import base64

import pytest
import trio

from appliance.backends.a1111 import A1111Backend
from appliance.config.settings import Settings
from appliance.protocol.errors import UpstreamFailed
from appliance.upstream.client import open_upstream
from tests.backends.calls import Drawing, draw, image_call
from tests.fakes.a1111 import Behaviour, open_fake_a1111
from tests.fakes.pictures import png

BACKEND = A1111Backend()


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
