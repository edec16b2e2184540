"""InvokeAI's previews against the fake's socket.io: they come while it draws, and losing them loses nothing else."""

from contextlib import asynccontextmanager

import pytest
import trio
from pydantic import SecretStr

from appliance.backends.invokeai import InvokeAIBackend
from appliance.config.classes import Login
from appliance.config.settings import Settings
from appliance.protocol.errors import UpstreamFailed
from appliance.upstream.client import open_upstream
from tests.backends.calls import Drawing, draw, image_call
from tests.fakes.invokeai import Behaviour, open_fake_invokeai
from tests.fakes.invokeai_items import preview
from tests.fakes.invokeai_socket import PATH

BACKEND = InvokeAIBackend()


class Seen:
    """The previews of one call, how far it was then, and when that was."""

    def __init__(self):
        self.images = []
        self.progress = []
        self.times = []

    def __call__(self, image, progress):
        self.images.append(image)
        self.progress.append(progress)
        self.times.append(trio.current_time())


@asynccontextmanager
async def open_bench(**behaviour):
    async with open_upstream(Settings()) as upstream, open_fake_invokeai(Behaviour(**behaviour)) as fake:
        yield upstream, fake
        await fake.statistics.until_no_connections()


async def test_each_step_is_seen_as_it_is_drawn(loopback_clock):
    seen = Seen()
    async with open_bench(step_s=1.0) as (upstream, fake):
        call = image_call(fake.base_url, options={"steps": 3}, on_preview=seen)
        result = await draw(BACKEND, call, upstream)
    assert [image.type for image in seen.images] == ["jpeg"] * 3
    assert seen.progress == [pytest.approx(1 / 3), pytest.approx(2 / 3), 1.0]
    assert seen.times[1] - seen.times[0] == pytest.approx(1, abs=0.05)
    assert result.images[0].type == "png"


async def test_nobody_listens_where_nobody_looks(loopback_clock):
    async with open_bench() as (upstream, fake):
        await draw(BACKEND, image_call(fake.base_url), upstream)
        assert PATH not in fake.asked


async def test_two_clients_see_only_their_own(nursery, loopback_clock):
    first, second = Seen(), Seen()
    async with open_bench() as (upstream, fake):
        drawings = [Drawing(), Drawing()]
        for drawing, seen, steps in zip(drawings, (first, second), (2, 5), strict=True):
            call = image_call(fake.base_url, options={"steps": steps}, on_preview=seen)
            nursery.start_soon(drawing.run, BACKEND, call, upstream)
        for drawing in drawings:
            await drawing.slot_back.wait()
            assert drawing.result is not None
    assert (len(first.images), len(second.images)) == (2, 5)


async def test_pings_are_answered_or_the_server_would_hang_up(loopback_clock):
    seen = Seen()
    async with open_bench(step_s=30) as (upstream, fake):
        await draw(BACKEND, image_call(fake.base_url, options={"steps": 4}, on_preview=seen, timeout_s=200), upstream)
        assert fake.listeners.pongs == 4
    assert len(seen.images) == 4


async def test_a_socket_that_is_lost_in_the_middle_loses_previews_alone(nursery, loopback_clock):
    async def lose(fake):
        await fake.until_active()
        await trio.sleep(1.5)
        for peer in fake.listeners.peers:
            await peer.close()

    seen = Seen()
    async with open_bench(step_s=1) as (upstream, fake):
        nursery.start_soon(lose, fake)
        result = await draw(BACKEND, image_call(fake.base_url, options={"steps": 4}, on_preview=seen), upstream)
    assert len(result.images) == 1
    assert len(seen.images) == 1


@pytest.mark.parametrize("how", ["refusing", "silent", "absent"])
async def test_a_server_that_lets_nobody_listen_draws_all_the_same(loopback_clock, how):
    seen = Seen()
    async with open_bench() as (upstream, fake):
        setattr(fake.listeners, how, True)
        started = trio.current_time()
        result = await draw(BACKEND, image_call(fake.base_url, on_preview=seen), upstream)
        assert trio.current_time() - started < 2 + 2.0 + 1  # its twenty steps, and what a listener may take to be ready
    assert len(result.images) == 1
    assert not seen.images


async def test_what_is_no_picture_is_passed_over(nursery, loopback_clock):
    nothing = {**preview(64, 48, 0), "dataURL": "data:image/png;base64,Zm9v"}
    script = {**preview(64, 48, 0), "dataURL": "javascript:alert(1)"}

    async def disturb(fake):
        await fake.until_active()
        destination = fake.working_on.destination
        for image in (nothing, script, {}, None, 5, {"dataURL": 5}):
            await fake.listeners.tell("invocation_progress", {"destination": destination, "image": image})
        for peer in fake.listeners.peers:
            for frame in ("42", "42[", "42{}", '42["invocation_progress"]', "43[]", "x", "", "6", b"\x00"):
                await peer.send(frame)

    seen = Seen()
    async with open_bench() as (upstream, fake):
        nursery.start_soon(disturb, fake)
        await draw(BACKEND, image_call(fake.base_url, options={"steps": 3}, on_preview=seen), upstream)
    assert len(seen.images) == 3


async def test_a_message_over_the_cap_ends_the_listening(nursery, loopback_clock):
    async def flood(fake):
        await fake.until_active()
        await fake.listeners.tell("x", {"a": "b" * 2_000_000})

    seen = Seen()
    async with open_bench() as (upstream, fake):
        nursery.start_soon(flood, fake)
        assert await draw(BACKEND, image_call(fake.base_url, options={"steps": 3}, on_preview=seen), upstream)
    assert not seen.images


async def test_a_server_with_users_is_shown_the_token(loopback_clock):
    me = Login("me@example.org", SecretStr("word"))
    seen = Seen()
    async with open_bench(users={"me@example.org": "word"}) as (upstream, fake):
        call = image_call(fake.base_url, options={"steps": 3}, on_preview=seen, login=me)
        await draw(BACKEND, call, upstream)
    assert len(seen.images) == 3


async def test_a_failure_is_the_same_with_and_without_previews(loopback_clock):
    async with open_bench(fail_with="ValueError") as (upstream, fake):
        with pytest.raises(UpstreamFailed, match="ValueError"):
            await draw(BACKEND, image_call(fake.base_url, on_preview=Seen()), upstream)


@pytest.mark.parametrize("after_s", [0.0, 0.0005, 0.5])
async def test_a_client_that_leaves_takes_its_listener_along(nursery, loopback_clock, after_s):
    async with open_bench() as (upstream, fake):
        drawing = Drawing()
        nursery.start_soon(drawing.run, BACKEND, image_call(fake.base_url, on_preview=Seen()), upstream)
        await trio.sleep(after_s)
        drawing.scope.cancel()
        await drawing.slot_back.wait()
        assert drawing.scope.cancelled_caught
        assert fake.is_idle
        await fake.statistics.until_no_connections()
        assert not fake.listeners.peers
