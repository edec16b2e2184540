"""The InvokeAI backend against its fake: pictures, models, edits, refusals, logins."""

import io
import json

import pytest
import trio
from PIL import Image as Pillow
from pydantic import SecretStr

from appliance.backends.base import ImageEdit
from appliance.backends.invokeai import InvokeAIBackend
from appliance.config.classes import Login
from appliance.config.settings import Settings
from appliance.protocol.errors import InvalidRequest, UpstreamFailed, UpstreamTimeout
from appliance.protocol.images import Image
from appliance.upstream.client import open_upstream
from tests.backends.calls import draw, image_call
from tests.fakes.http import open_server
from tests.fakes.invokeai import Behaviour, open_fake_invokeai
from tests.fakes.pictures import png

ME = Login("me@example.org", SecretStr("s3cret word"))
USERS = {"me@example.org": "s3cret word"}


@pytest.fixture
def backend():
    return InvokeAIBackend(new_seed=lambda: 1000)


async def test_picture_has_the_size_that_was_asked_for_and_no_text(loopback_clock, backend):
    async with open_upstream(Settings()) as upstream, open_fake_invokeai() as fake:
        result = await draw(backend, image_call(fake.base_url, options={"seed": 7}), upstream)
        assert b"lighthouse" in png(8, 8, text="lighthouse")
    assert [Pillow.open(io.BytesIO(image.data)).size for image in result.images] == [(64, 48)]
    assert all(b"lighthouse" not in image.data for image in result.images)
    assert (result.seed, result.model) == (7, "tiny-sd")


async def test_pictures_come_in_the_order_of_their_seeds_and_leave_nothing_behind(loopback_clock, backend):
    async with open_upstream(Settings()) as upstream, open_fake_invokeai() as fake:
        result = await draw(backend, image_call(fake.base_url, n=4), upstream)
        assert [item.seed for item in fake.items.values()] == [1000, 1001, 1002, 1003]
        assert fake.images == {}
    drawn = [Pillow.open(io.BytesIO(image.data)).tobytes() for image in result.images]
    wanted = [Pillow.open(io.BytesIO(png(64, 48, shade=seed))).tobytes() for seed in (1000, 1001, 1002, 1003)]
    assert drawn == wanted
    assert result.seed == 1000


async def test_models_are_asked_for_once_and_again_for_one_that_is_missing(loopback_clock, backend):
    async with open_upstream(Settings()) as upstream, open_fake_invokeai() as fake:
        for _ in range(2):
            await draw(backend, image_call(fake.base_url), upstream)
        assert len([model for model in fake.asked if model.startswith("/api/v2/models/")]) == 1
        fake.models.append({**fake.models[1], "key": "new-key", "name": "new"})
        assert (await draw(backend, image_call(fake.base_url, model="new"), upstream)).model == "new"
        await trio.sleep(11)
        assert (await draw(backend, image_call(fake.base_url, model="new-key"), upstream)).model == "new"
        assert len([model for model in fake.asked if model.startswith("/api/v2/models/")]) == 3


async def test_a_model_that_is_not_there_is_404_and_says_which_are(loopback_clock, backend):
    async with open_upstream(Settings()) as upstream, open_fake_invokeai() as fake:
        with pytest.raises(UpstreamFailed, match=r"no model nix: it has tiny-sd, tiny-sdxl\.") as caught:
            await draw(backend, image_call(fake.base_url, model="nix"), upstream)
        assert (caught.value.status, caught.value.code, caught.value.param) == (404, "model_not_found", "model")
        with pytest.raises(InvalidRequest, match="family flux") as refused:
            await draw(backend, image_call(fake.base_url, model="a-flux"), upstream)
        assert (refused.value.param, refused.value.code) == ("model", "capability_not_supported")
        fake.models.clear()
        await trio.sleep(11)
        with pytest.raises(UpstreamFailed, match="install one of sd-1 and sdxl"):
            await draw(backend, image_call(fake.base_url), upstream)
        assert not fake.items


async def test_a_picture_to_edit_is_sent_used_and_removed(loopback_clock, backend):
    edit = ImageEdit(Image(png(100, 100), "png"), Image(png(100, 100, shade=3), "png"), strength=0.5)
    async with open_upstream(Settings()) as upstream, open_fake_invokeai() as fake:
        result = await draw(backend, image_call(fake.base_url, edit=edit, options={"steps": 10}), upstream)
        nodes = fake.batches[0]["graph"]["nodes"]
        sent = [nodes[name]["image"]["image_name"] for name in ("resized", "alpha")]
        assert [fake.uploaded[name] for name in sent] == [edit.image.data, edit.mask.data]
        assert next(iter(fake.items.values())).steps == 5
        assert fake.images == {}
    assert len(result.images) == 1


async def test_a_scheduler_the_server_does_not_have_is_its_422_with_its_list(loopback_clock, backend):
    async with open_upstream(Settings()) as upstream, open_fake_invokeai() as fake:
        with pytest.raises(UpstreamFailed, match="Input should be 'ddim'") as caught, trio.fail_after(0.1):
            await draw(backend, image_call(fake.base_url, options={"scheduler": "nope"}), upstream)
        assert fake.cancels == []
    assert caught.value.status == 422


async def test_kilobytes_of_refusal_are_cut_and_its_paths_taken_out(loopback_clock, backend):
    said = json.dumps({"detail": [{"msg": "in /srv/models/secret: " + "x " * 5000, "input": {"a": "b " * 5000}}]})

    async def handle(request):
        if request.path == "/api/v2/models/":
            model = {"key": "k", "hash": "h", "name": "n", "base": "sd-1"}
            await request.respond_json(200, {"models": [model]})
            return
        await request.respond(422, said.encode())

    async with open_upstream(Settings()) as upstream, open_server(handle) as server:
        with pytest.raises(UpstreamFailed) as caught:
            await draw(backend, image_call(server.base_url), upstream)
    assert len(caught.value.message) < 400
    assert len(caught.value.extra["body"]) <= 2048
    assert "/srv" not in str(caught.value.extra) + caught.value.message


@pytest.mark.parametrize(("size", "n", "left"), [(2, 1, 2), (3, 4, 2)])
async def test_a_full_queue_is_429_and_what_did_fit_is_taken_out_again(loopback_clock, backend, size, n, left):
    async with open_upstream(Settings()) as upstream, open_fake_invokeai(Behaviour(max_queue_size=size)) as fake:
        fake.paused = True
        for seed in range(2):
            fake.enqueue({"graph": {"nodes": {"noise": {"type": "noise", "seed": seed}}, "edges": []}}, "somebody")
        with pytest.raises(UpstreamFailed, match="queue full") as caught:
            await draw(backend, image_call(fake.base_url, n=n), upstream)
        assert (caught.value.status, caught.value.retry_after_s) == (429, 5)
        assert len(fake.pending()) == left
    assert caught.value.type == "rate_limit_error"


@pytest.mark.parametrize(
    "said", [{}, {"enqueued": 1}, {"enqueued": 1, "item_ids": "x"}, {"enqueued": 1, "item_ids": ["x"]}]
)
async def test_a_batch_without_ids_is_502_and_cancelled_by_its_destination(loopback_clock, backend, said):
    async with open_upstream(Settings()) as upstream, open_fake_invokeai(Behaviour(step_s=1)) as fake:
        fake.instead_of_enqueued = said
        with pytest.raises(UpstreamFailed, match="without item_ids") as caught:
            await draw(backend, image_call(fake.base_url), upstream)
        assert [item.status for item in fake.items.values()] == ["canceled"]
        assert fake.is_idle
    assert caught.value.status == 502


async def test_a_failure_tells_the_class_of_its_error_and_no_more(loopback_clock, backend):
    async with (
        open_upstream(Settings()) as upstream,
        open_fake_invokeai(Behaviour(fail_with="OutOfMemoryError")) as fake,
    ):
        with pytest.raises(UpstreamFailed, match=r"failed to draw this: OutOfMemoryError\.") as caught:
            await draw(backend, image_call(fake.base_url, n=2), upstream)
        assert fake.is_idle
    assert caught.value.status == 502
    assert "/srv" not in str(caught.value.extra) + caught.value.message


async def test_a_picture_that_somebody_else_cancels_is_502(nursery, loopback_clock, backend):
    async with open_upstream(Settings()) as upstream, open_fake_invokeai() as fake:
        nursery.start_soon(_cancel_as_its_owner_would, fake)
        with pytest.raises(UpstreamFailed, match="somebody else") as caught:
            await draw(backend, image_call(fake.base_url), upstream)
    assert caught.value.status == 502


async def _cancel_as_its_owner_would(fake):
    await fake.until_active()
    fake.cancel(fake.working_on)


async def test_a_queue_that_is_cleared_is_502(nursery, loopback_clock, backend):
    async def clear(fake):
        await fake.until_active()
        fake.items.clear()

    async with open_upstream(Settings()) as upstream, open_fake_invokeai() as fake:
        nursery.start_soon(clear, fake)
        with pytest.raises(UpstreamFailed, match="queue was cleared") as caught:
            await draw(backend, image_call(fake.base_url), upstream)
    assert caught.value.status == 502


async def test_death_in_the_middle_is_502_and_holds_no_slot(nursery, loopback_clock, backend):
    async def kill(fake):
        await fake.until_active()
        fake.server.die()

    async with open_upstream(Settings()) as upstream, open_fake_invokeai() as fake:
        nursery.start_soon(kill, fake)
        with pytest.raises(UpstreamFailed) as caught, trio.fail_after(1):
            await draw(backend, image_call(fake.base_url), upstream)
    assert caught.value.status == 502


async def test_a_picture_that_takes_too_long_is_504_and_cancelled(loopback_clock, backend):
    async with open_upstream(Settings()) as upstream, open_fake_invokeai(Behaviour(step_s=1)) as fake:
        with pytest.raises(UpstreamTimeout, match=r"within 3 s \(total deadline\)"):
            await draw(backend, image_call(fake.base_url, timeout_s=3), upstream)
        assert fake.is_idle
        assert [item.status for item in fake.items.values()] == ["canceled"]


@pytest.mark.parametrize("results", [{}, {"p": 5}, {"p": {"image": {"image_name": "../x"}}}])
async def test_a_completed_item_without_a_picture_is_502(loopback_clock, backend, results):
    async with open_upstream(Settings()) as upstream, open_fake_invokeai() as fake:
        fake.instead_of_session = {"results": results, "source_prepared_mapping": {"picture": ["p"]}}
        with pytest.raises(UpstreamFailed, match="without a picture") as caught:
            await draw(backend, image_call(fake.base_url), upstream)
    assert caught.value.status == 502


async def test_a_picture_over_the_cap_is_502(loopback_clock, backend):
    async with open_upstream(Settings()) as upstream, open_fake_invokeai() as fake:
        with pytest.raises(UpstreamFailed, match="gpu_heavy answered more than 50 bytes"):
            await draw(backend, image_call(fake.base_url, images_max_bytes=50), upstream)


async def test_a_server_with_users_is_logged_in_to_once(loopback_clock, backend):
    async with open_upstream(Settings()) as upstream, open_fake_invokeai(Behaviour(users=USERS)) as fake:
        for _ in range(2):
            assert (await draw(backend, image_call(fake.base_url, login=ME), upstream)).images
        assert fake.logins == 1
        assert {item.user for item in fake.items.values()} == {"me@example.org"}
        fake.tokens.clear()  # they expire
        assert (await draw(backend, image_call(fake.base_url, login=ME), upstream)).images
        assert fake.logins == 2


async def test_a_token_that_expires_while_a_picture_is_drawn_costs_one_more_login(nursery, loopback_clock, backend):
    async def expire(fake):
        await fake.until_active()
        fake.tokens.clear()

    async with open_upstream(Settings()) as upstream, open_fake_invokeai(Behaviour(users=USERS)) as fake:
        nursery.start_soon(expire, fake)
        assert (await draw(backend, image_call(fake.base_url, login=ME), upstream)).images
        assert fake.logins == 2


async def test_a_server_with_users_says_what_to_set_where_there_is_no_account(loopback_clock, backend):
    async with open_upstream(Settings()) as upstream, open_fake_invokeai(Behaviour(users=USERS)) as fake:
        with pytest.raises(UpstreamFailed, match="set IMAGES_INVOKEAI_USER and IMAGES_INVOKEAI_PASSWORD") as caught:
            await draw(backend, image_call(fake.base_url), upstream)
    assert caught.value.status == 502


async def test_a_login_that_is_refused_is_502_and_tells_no_secret(loopback_clock, backend):
    wrong = Login("me@example.org", SecretStr("other word"))
    async with open_upstream(Settings()) as upstream, open_fake_invokeai(Behaviour(users=USERS)) as fake:
        with pytest.raises(UpstreamFailed, match="answered 401 to the login of IMAGES_INVOKEAI_USER") as caught:
            await draw(backend, image_call(fake.base_url, login=wrong), upstream)
    told = str(caught.value.extra) + caught.value.message + repr(image_call(login=wrong))
    assert caught.value.status == 502
    assert "other word" not in told
    assert "example.org" not in str(caught.value.extra) + caught.value.message


@pytest.mark.parametrize("token", [None, "", "a b", "a\r\nX-Evil: 1", "ü", "x" * 9000, 5])
async def test_a_token_that_is_no_token_goes_into_no_header(loopback_clock, backend, token):
    async def handle(request):
        is_login = request.path == "/api/v1/auth/login"
        await request.respond_json(200 if is_login else 401, {"token": token})

    async with open_upstream(Settings()) as upstream, open_server(handle) as server:
        with pytest.raises(UpstreamFailed, match="login without a token"):
            await draw(backend, image_call(server.base_url, login=ME), upstream)
