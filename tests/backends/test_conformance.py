"""Conformance: what every registry entry promises, whatever it speaks. A new backend adds a line to SETTINGS."""

from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import trio

from appliance.backends.base import ImageEdit
from appliance.backends.registry import EDITING, IMAGE_BACKENDS
from appliance.config.settings import Settings
from appliance.protocol.errors import GatewayError, InvalidRequest, UpstreamFailed, UpstreamTimeout
from appliance.protocol.images import Image
from appliance.protocol.magic import sniff_image
from appliance.upstream.client import open_upstream
from tests.backends.calls import Drawing, draw, image_call
from tests.fakes import comfyui, sd_cpp
from tests.fakes.a1111 import Behaviour, open_fake_a1111
from tests.fakes.comfyui_routes import open_fake_comfyui
from tests.fakes.http import open_server
from tests.fakes.invokeai import Behaviour as InvokeAIBehaviour
from tests.fakes.invokeai import open_fake_invokeai
from tests.fakes.openai_images import open_fake_openai_images
from tests.fakes.pictures import png
from tests.fakes.sd_cpp import open_fake_sd_cpp


@dataclass
class Bench:
    """A backend, its fake, and the words that both have for the same things."""

    backend: Any
    upstream: Any
    fake: Any
    base_url: str

    unstoppable: bool

    def call(self, **changes):
        return image_call(self.base_url, unstoppable=self.unstoppable, **changes)

    async def until_drawing(self):
        await (self.fake.until_active() if hasattr(self.fake, "until_active") else self.fake.until_drawing())

    async def assert_idle(self):
        """A1111 at this very moment; a server whose cancel is the closed connection as soon as it has heard of it."""
        if hasattr(self.fake, "is_idle"):
            assert self.fake.is_idle
            return
        with trio.fail_after(0.05):
            await self.fake.changes.until(lambda: not self.fake.drawing)

    @property
    def foreign_kills(self):
        return self.fake.counts.foreign_kills if hasattr(self.fake, "counts") else 0


def a_slow_a1111():
    return open_fake_a1111(Behaviour(step_s=0.5))


def a_slow_openai_server():
    return open_fake_openai_images(drawing_s=10)


def a_slow_invokeai():
    return open_fake_invokeai(InvokeAIBehaviour(step_s=0.5))


def a_slow_comfyui():
    return open_fake_comfyui(comfyui.Behaviour(step_s=0.5))


def a_slow_sd_cpp():
    return open_fake_sd_cpp(sd_cpp.Behaviour(drawing_s=10))


# After a slash: a kind of server that a backend speaks to otherwise.
FAKES = {
    "http_a1111": a_slow_a1111,
    "http_comfyui": a_slow_comfyui,
    "http_openai_images": a_slow_openai_server,
    "http_openai_images/sd.cpp": a_slow_sd_cpp,
    "http_invokeai": a_slow_invokeai,
}
# What a server calls otherwise: one name for sampler and scheduler; 1 for no guidance.
SPOKEN = {
    "http_invokeai": {("scheduler", "karras"): "euler_k", ("cfg_scale", 0.0): 1.0},
    "http_openai_images/sd.cpp": {("cfg_scale", 0.0): 1.0},
}
REMOTE = sorted(FAKES)
PUSHING = ["http_comfyui", "http_invokeai"]  # A1111 shows a preview when it is asked for one


def test_every_backend_is_covered_here():
    assert {name.partition("/")[0] for name in FAKES} | {"mock"} == set(IMAGE_BACKENDS)


def backend_of(name):
    return IMAGE_BACKENDS[name.partition("/")[0]]


def call_of(name, *base_url, **changes):
    return image_call(*base_url, unstoppable="/" in name, **changes)


@asynccontextmanager
async def open_bench(name):
    async with open_upstream(Settings()) as upstream, FAKES[name]() as fake:
        yield Bench(backend_of(name), upstream, fake, fake.base_url, "/" in name)
        await fake.statistics.until_no_connections()
        assert "in_use=0" in repr(upstream)


async def test_mock_draws_without_any_backend():
    async with AsyncExitStack() as stack:
        result = await IMAGE_BACKENDS["mock"].draw(image_call(n=2), None, stack)
    assert [image.type for image in result.images] == ["svg", "svg"]


@pytest.mark.parametrize("name", REMOTE)
@pytest.mark.parametrize("n", [1, 4])
async def test_pictures_are_drawn(loopback_clock, name, n):
    async with open_bench(name) as bench:
        result = await draw(bench.backend, bench.call(n=n, options={"seed": 7}), bench.upstream)
    assert len(result.images) == n
    assert all(sniff_image(image.data) == image.type == "png" for image in result.images)
    assert result.seed == 7
    assert "lighthouse" not in str(result.request)


@pytest.mark.parametrize("name", REMOTE)
@pytest.mark.parametrize(
    ("options", "sent"),
    [
        ({"steps": 4}, {"steps": 4}),
        ({"num_inference_steps": 4}, {"steps": 4}),
        ({"guidance": 2.0}, {"cfg_scale": 2.0}),
        ({"guidance_scale": 2.0}, {"cfg_scale": 2.0}),
        ({"cfg_scale": 2.0}, {"cfg_scale": 2.0}),
        ({"cfg_scale": 0.0}, {"cfg_scale": 0.0}),
        ({"negative": "fog"}, {"negative_prompt": "fog"}),
        ({"negative_prompt": "fog"}, {"negative_prompt": "fog"}),
        ({"seed": 0}, {"seed": 0}),
        ({"scheduler": "karras"}, {"scheduler": "karras"}),
    ],
)
async def test_options_reach_the_backend_and_are_told(loopback_clock, name, options, sent):
    sent = {key: SPOKEN.get(name, {}).get((key, value), value) for key, value in sent.items()}
    async with open_bench(name) as bench:
        result = await draw(bench.backend, bench.call(options=options), bench.upstream)
        assert sent.items() <= bench.fake.payloads[0].items()
        assert sent.items() <= result.request.items()
        assert None not in bench.fake.payloads[0].values()


@pytest.mark.parametrize("name", REMOTE)
async def test_contradiction_is_refused_before_anything_is_sent(loopback_clock, name):
    async with open_bench(name) as bench:
        with pytest.raises(InvalidRequest):
            await draw(bench.backend, bench.call(options={"steps": 1, "num_inference_steps": 2}), bench.upstream)
        assert not bench.fake.statistics.requests


ANSWERS = {
    "HTML": (500, b"<html>x</html>", 502),
    "bad request": (400, b'{"error":"no"}', 400),
    "unprocessable": (422, b'{"detail":[{"msg":"no"}]}', 422),
    "busy": (429, b'{"error":"full"}', 429),
    "unauthorised": (401, b"", 502),
    "redirect": (307, b"", 502),
    "not JSON": (200, b"x", 502),
    "no pictures": (200, b'{"images":[],"data":[]}', 502),
    "bad picture": (200, b'{"images":["Zm9v"],"data":[{"b64_json":"Zm9v"}]}', 502),
    "missing list": (200, b"{}", 502),
}


@pytest.mark.parametrize("name", REMOTE)
@pytest.mark.parametrize("answer", ANSWERS)
async def test_each_bad_answer_has_its_status(loopback_clock, name, answer):
    given, body, expected = ANSWERS[answer]

    async def handle(request):
        await request.respond(given, body)

    async with open_upstream(Settings()) as upstream, open_server(handle) as server:
        with pytest.raises(GatewayError) as caught:
            await draw(backend_of(name), call_of(name, server.base_url, cancel_timeout_s=5), upstream)
        await server.statistics.until_no_connections()
    assert caught.value.status == expected
    assert caught.value.source == "upstream"


@pytest.mark.parametrize("name", REMOTE)
async def test_dead_backend_is_502(loopback_clock, name):
    async with open_upstream(Settings()) as upstream:
        with pytest.raises(UpstreamFailed, match="cannot be reached"):
            await draw(backend_of(name), call_of(name), upstream)


@pytest.mark.parametrize("name", REMOTE)
async def test_slow_backend_is_504_and_idle_when_the_slot_is_back(loopback_clock, name):
    async with open_bench(name) as bench:
        with pytest.raises(UpstreamTimeout):
            await draw(bench.backend, bench.call(timeout_s=3), bench.upstream)
        await bench.assert_idle()


@pytest.mark.parametrize("name", REMOTE)
async def test_call_cancelled_while_it_connects_asks_nothing_more(nursery, loopback_clock, name):
    silent = partial(trio.serve_tcp, _stay_silent, 0, host="127.0.0.1")
    async with open_upstream(Settings()) as upstream:
        listeners = await nursery.start(silent)
        url = f"https://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        drawing = Drawing()
        nursery.start_soon(drawing.run, backend_of(name), call_of(name, url), upstream)
        await trio.sleep(1)
        drawing.scope.cancel()
        with trio.fail_after(0.1):
            await drawing.slot_back.wait()
        assert drawing.scope.cancelled_caught
    nursery.cancel_scope.cancel()


async def _stay_silent(stream):
    async for _ in stream:
        pass


@pytest.mark.parametrize("name", REMOTE)
@pytest.mark.parametrize("n", [1, 2])
async def test_edits_are_drawn_where_they_are_honoured(loopback_clock, name, n):
    if name not in EDITING:
        return
    picture = Image(png(64, 48), "png")
    async with open_bench(name) as bench:
        call = bench.call(n=n, options={"seed": 7}, edit=ImageEdit(picture, strength=0.5))
        result = await draw(bench.backend, call, bench.upstream)
        plain = await draw(bench.backend, bench.call(n=n), bench.upstream)
    assert len(result.images) == len(plain.images) == n
    assert all(sniff_image(image.data) == image.type == "png" for image in result.images)


@pytest.mark.parametrize("name", PUSHING)
async def test_a_preview_that_is_pushed_is_shown_before_any_clock_ticks(loopback_clock, name):
    """Issue 6: within 50 ms. Whoever asked for the next one at intervals would be late by some of them."""
    late = []
    async with open_bench(name) as bench:

        def on_preview(image, progress=None):
            late.append(trio.current_time() - bench.fake.previewed_at[-1])

        await draw(bench.backend, bench.call(options={"steps": 7}, on_preview=on_preview), bench.upstream)
        assert len(late) == len(bench.fake.previewed_at) == 7
    assert max(late) < 0.02


@pytest.mark.parametrize("name", REMOTE)
@pytest.mark.parametrize("looks", [False, True])
@pytest.mark.parametrize("after_s", [0.0, 0.001, 0.3, 4.0, 9.4, 9.9, 10.0])
async def test_backend_is_idle_when_the_slot_is_back(nursery, loopback_clock, name, looks, after_s):
    async with open_bench(name) as bench:
        drawing = Drawing()
        call = bench.call(on_preview=(lambda *_: None) if looks else None)
        nursery.start_soon(drawing.run, bench.backend, call, bench.upstream)
        await bench.until_drawing()
        await trio.sleep(after_s)
        drawing.scope.cancel()
        with trio.fail_after(60):
            await drawing.slot_back.wait()
        await bench.assert_idle()
        assert bench.foreign_kills == 0
        assert (await draw(bench.backend, bench.call(), bench.upstream)).images


@pytest.mark.parametrize("name", [name for name in REMOTE if "/" not in name])  # a job's id is waited for
async def test_call_cancelled_in_the_middle_of_the_answer_gives_the_slot_back(nursery, loopback_clock, name):
    begun = trio.Event()

    async def handle(request):
        if request.path == "/internal/progress":
            known = {"active": False, "queued": False, "completed": begun.is_set()}
            await request.respond_json(200, known)
            return
        await request.send_raw(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{")
        begun.set()
        await request.hung_up()

    async with open_upstream(Settings()) as upstream, open_server(handle) as server:
        drawing = Drawing()
        nursery.start_soon(drawing.run, backend_of(name), call_of(name, server.base_url), upstream)
        await begun.wait()
        await trio.sleep(1)
        drawing.scope.cancel()
        with trio.fail_after(1):
            await drawing.slot_back.wait()
            await server.statistics.until_no_connections()


@pytest.mark.parametrize("name", REMOTE)
@pytest.mark.parametrize("leaver", [0, 1])
@pytest.mark.parametrize("after_s", [0.0, 3.0, 9.5, 9.99])
async def test_one_client_leaves_and_the_others_picture_arrives_untouched(
    nursery, loopback_clock, name, leaver, after_s
):
    async with open_bench(name) as bench:
        drawings = [Drawing(), Drawing()]
        nursery.start_soon(drawings[0].run, bench.backend, bench.call(), bench.upstream)
        await bench.until_drawing()
        nursery.start_soon(drawings[1].run, bench.backend, bench.call(), bench.upstream)
        await trio.sleep(0.05 + after_s)
        drawings[leaver].scope.cancel()
        for drawing in drawings:
            await drawing.slot_back.wait()
        stayer = drawings[1 - leaver]
        assert stayer.result is not None
        assert bench.foreign_kills == 0
        await bench.assert_idle()
