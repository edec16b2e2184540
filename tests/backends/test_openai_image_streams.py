"""Streams of OpenAI-style image servers: previews where they have some; those that have none draw as ever."""

import base64
import json
from contextlib import asynccontextmanager

import pytest
import trio

from appliance.backends.base import ImageEdit
from appliance.backends.openai_images import REFUSED_S, OpenAIImagesBackend
from appliance.config.settings import Settings
from appliance.protocol.errors import UpstreamFailed, UpstreamTimeout
from appliance.protocol.images import Image
from appliance.upstream.client import open_upstream
from tests.backends.calls import Drawing, draw, image_call
from tests.fakes.http import open_server
from tests.fakes.openai_images import open_fake_openai_images
from tests.fakes.pictures import png

PICTURE = base64.b64encode(png(64, 48)).decode()
UNKNOWN = {"error": {"message": "Unknown parameter: 'stream'.", "type": "invalid_request_error", "param": "stream"}}


class Seen:
    """The previews of one call, how far it was then, and how long that was after it was sent."""

    def __init__(self, fake=None):
        self.fake = fake
        self.images = []
        self.progress = []
        self.late = []

    def __call__(self, image, progress=None):
        self.images.append(image)
        self.progress.append(progress)
        if self.fake is not None:
            self.late.append(trio.current_time() - self.fake.previewed_at[-1])


@asynccontextmanager
async def open_bench(*, streams=True, drawing_s=8.0):
    async with open_upstream(Settings()) as upstream, open_fake_openai_images(drawing_s=drawing_s) as fake:
        fake.streams = streams
        yield OpenAIImagesBackend(), upstream, fake
        await fake.statistics.until_no_connections()
        assert "in_use=0" in repr(upstream)


@pytest.mark.parametrize("with_edit", [False, True])
async def test_previews_are_shown_as_they_come_and_the_picture_ends_it(loopback_clock, with_edit):
    edit = ImageEdit(Image(png(64, 48), "png")) if with_edit else None
    async with open_bench() as (backend, upstream, fake):
        seen = Seen(fake)
        result = await draw(backend, image_call(fake.base_url, on_preview=seen, edit=edit), upstream)
    assert seen.progress == [0.25, 0.5, 0.75]
    assert max(seen.late) < 0.02, "within 50 ms of the server's showing it: no clock ticked"
    assert all(b"a preview" not in image.data for image in seen.images)
    assert (len(result.images), result.upstream["usage"]["total_tokens"]) == (1, 3)
    assert b"lighthouse" not in result.images[0].data
    assert "stream" not in result.request


async def test_as_many_are_asked_for_as_the_client_wants_and_none_where_nobody_looks(loopback_clock):
    async with open_bench() as (backend, upstream, fake):
        await draw(backend, image_call(fake.base_url, on_preview=Seen(), previews=1), upstream)
        await draw(backend, image_call(fake.base_url), upstream)
    assert (fake.payloads[0]["stream"], fake.payloads[0]["partial_images"]) == (True, 1)
    assert not {"stream", "partial_images"} & fake.payloads[1].keys()


async def test_a_server_that_knows_no_streams_answers_as_ever(loopback_clock):
    seen = Seen()
    async with open_bench(streams=False) as (backend, upstream, fake):
        result = await draw(backend, image_call(fake.base_url, on_preview=seen), upstream)
    assert (len(result.images), seen.images, len(fake.payloads)) == (1, [], 1)


async def test_a_server_that_refuses_is_asked_without_and_not_tried_again_for_a_while(loopback_clock):
    async with open_bench(drawing_s=1) as (backend, upstream, fake):
        fake.refusal = UNKNOWN
        for _ in range(2):
            assert (await draw(backend, image_call(fake.base_url, on_preview=Seen()), upstream)).images
        assert ["stream" in payload for payload in fake.payloads] == [True, False, False]
        fake.refusal = None
        await trio.sleep(REFUSED_S)
        seen = Seen()
        await draw(backend, image_call(fake.base_url, on_preview=seen), upstream)
        assert len(seen.images) == 3


async def test_a_refusal_of_something_else_is_the_clients_own(loopback_clock):
    async with open_bench() as (backend, upstream, fake):
        fake.refusal = {"error": {"message": "bad size", "param": "size"}}
        with pytest.raises(UpstreamFailed, match="bad size") as caught:
            await draw(backend, image_call(fake.base_url, on_preview=Seen()), upstream)
        assert (caught.value.status, len(fake.payloads)) == (400, 1)


async def test_stable_diffusion_cpp_is_asked_for_no_stream(loopback_clock):
    async with open_bench() as (backend, upstream, fake):
        fake.stoppable = False
        await draw(backend, image_call(fake.base_url, on_preview=Seen(), unstoppable=True), upstream)
    assert "stream" not in fake.payloads[0]


async def test_an_error_in_the_stream_is_one_of_the_server_without_its_paths(loopback_clock):
    async with open_bench() as (backend, upstream, fake):
        fake.broken_off = True
        with pytest.raises(UpstreamFailed, match="broke off its drawing: moderation") as caught:
            await draw(backend, image_call(fake.base_url, on_preview=Seen()), upstream)
    assert "/srv" not in caught.value.message


async def test_a_client_that_leaves_closes_the_stream(nursery, loopback_clock):
    async with open_bench() as (backend, upstream, fake):
        drawing = Drawing()
        nursery.start_soon(drawing.run, backend, image_call(fake.base_url, on_preview=Seen()), upstream)
        await fake.changes.until(lambda: bool(fake.previewed_at) or fake.drawing == 1)
        await trio.sleep(3)
        drawing.scope.cancel()
        with trio.fail_after(0.1):
            await drawing.slot_back.wait()
        await fake.changes.until(lambda: fake.aborted == 1)


BAD = {
    "no picture": b"",
    "only a comment": b": hello\n\n",
    "done and nothing": b"data: [DONE]\n\n",
    "no JSON": b"data: {\n\n",
    "a list": b"data: []\n\n",
    "a picture that is none": b'data: {"type":"image_generation.completed","b64_json":"Zm9v"}\n\n',
    "no bytes of it": b'data: {"type":"image_generation.completed"}\n\n',
    "a bare error": b'data: {"type":"error"}\n\n',
    "another kind": b'data: {"type":"response.created"}\n\n',
}


@pytest.mark.parametrize("body", BAD.values(), ids=BAD)
async def test_what_is_no_stream_of_a_picture_is_502(loopback_clock, body):
    async def handle(request):
        await request.respond(200, body, {"Content-Type": "text/event-stream; charset=utf-8"})

    async with open_upstream(Settings()) as upstream, open_server(handle) as server:
        with pytest.raises(UpstreamFailed) as caught:
            await draw(OpenAIImagesBackend(), image_call(server.base_url, on_preview=Seen()), upstream)
        await server.statistics.until_no_connections()
    assert caught.value.status == 502


@pytest.mark.parametrize("spoilt", [{"b64_json": "Zm9v"}, {"b64_json": 5, "partial_image_index": -1}, {}])
async def test_a_preview_that_cannot_be_read_costs_no_picture(loopback_clock, spoilt):
    said = {"type": "image_generation.partial_image", **spoilt}
    whole = {"type": "image_generation.completed", "b64_json": PICTURE}

    async def handle(request):
        body = "".join(f"data: {json.dumps(event)}\n\n" for event in (said, whole)).encode()
        await request.respond(200, body, {"Content-Type": "text/event-stream"})

    seen = Seen()
    async with open_upstream(Settings()) as upstream, open_server(handle) as server:
        result = await draw(OpenAIImagesBackend(), image_call(server.base_url, on_preview=seen), upstream)
    assert (len(result.images), seen.images) == (1, [])


@pytest.mark.parametrize("kind", ["one event", "many"])
async def test_a_stream_without_end_is_cut_at_the_cap(loopback_clock, kind):
    async def handle(request):
        await request.send_raw(b"HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        while True:
            await request.send_raw(b"data: " + b"x" * 65536 if kind == "one event" else b": " + b"x" * 65536 + b"\n\n")

    async with open_upstream(Settings()) as upstream, open_server(handle) as server:
        call = image_call(server.base_url, on_preview=Seen(), images_max_bytes=1000)
        with pytest.raises(UpstreamFailed, match="more than"):
            await draw(OpenAIImagesBackend(), call, upstream)


async def test_silence_in_a_stream_is_bounded_by_the_drawings_own_time(loopback_clock):
    async with open_bench(drawing_s=400) as (backend, upstream, fake):
        with pytest.raises(UpstreamTimeout):
            await draw(backend, image_call(fake.base_url, on_preview=Seen(), timeout_s=50), upstream)
    async with open_bench(drawing_s=160) as (
        backend,
        upstream,
        fake,
    ):  # 40 s between previews, more than idle_timeout_s
        call = image_call(fake.base_url, on_preview=Seen(), timeout_s=170)
        assert (await draw(backend, call, upstream)).images
