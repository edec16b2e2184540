"""A1111 behind `--api-auth`: every request carries the login, the interrupt too."""

import pytest
import trio
from pydantic import SecretStr

from appliance.backends.a1111 import A1111Backend
from appliance.config.classes import Login
from appliance.config.settings import Settings
from appliance.protocol.errors import UpstreamFailed
from appliance.upstream.client import open_upstream
from tests.backends.calls import Drawing, draw, image_call
from tests.fakes.a1111 import Behaviour, open_fake_a1111

BACKEND = A1111Backend()


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
