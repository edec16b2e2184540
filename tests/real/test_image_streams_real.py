"""Image streams from end to end: the openai SDK in front, the running gateway, image servers that show previews behind it."""

import base64
import io
import time
from pathlib import Path
from typing import Any

import openai
import pytest
import trio
from PIL import Image

from tests.fakes.a1111 import Behaviour, FakeA1111, open_fake_a1111
from tests.fakes.openai_images import open_fake_openai_images
from tests.process import TOKEN, GatewayProcess, start_gateway

pytestmark = pytest.mark.real


def sdk(gateway: GatewayProcess) -> openai.OpenAI:
    return openai.OpenAI(base_url=gateway.url + "/v1", api_key=TOKEN, max_retries=0)


def settings_for(fake: FakeA1111) -> dict[str, str]:
    return {
        "IMAGES_BACKEND": "http_a1111",
        "IMAGES_HTTP_BASE_URL": fake.base_url,
        "IMAGES_A1111_USER": "me",
        "IMAGES_A1111_PASSWORD": "secret",
    }


async def test_the_openai_sdk_is_shown_previews_within_50_ms_and_then_the_picture(tmp_path: Path) -> None:
    def watch(gateway: GatewayProcess) -> list[tuple[float, object]]:
        with sdk(gateway) as client:
            stream = client.images.generate(prompt="a fox", size="64x48", stream=True, partial_images=3)  # type: ignore[call-overload] # any size is drawn here
            return [(time.perf_counter(), event) for event in stream]

    async with open_fake_a1111(Behaviour(credentials="me:secret", step_s=0.05)) as fake:
        with start_gateway(tmp_path, settings_for(fake)) as gateway:
            shown = await trio.to_thread.run_sync(watch, gateway)
            offset = time.perf_counter() - trio.current_time()
            delays = [at - offset - drawn for (at, _), drawn in zip(shown, fake.previewed_at, strict=False)]
    events = [event for _, event in shown]
    assert [event.type for event in events] == ["image_generation.partial_image"] * 3 + ["image_generation.completed"]
    assert [event.partial_image_index for event in events[:3]] == [0, 1, 2]
    assert Image.open(io.BytesIO(base64.b64decode(events[0].b64_json))).size == (8, 8)
    assert Image.open(io.BytesIO(base64.b64decode(events[-1].b64_json))).size == (64, 48)
    assert (events[-1].usage.total_tokens, events[-1].output_format, events[-1].size) == (0, "png", "64x48")
    print("preview delays, ms:", [round(delay * 1000, 1) for delay in delays])


async def test_the_openai_sdk_is_shown_the_previews_of_an_openai_style_server(tmp_path: Path) -> None:
    def watch(gateway: GatewayProcess) -> list[Any]:
        with sdk(gateway) as client:
            drawn = client.images.generate(prompt="a fox", size="64x48", stream=True, partial_images=2)  # type: ignore[call-overload] # any size is drawn here
            picture = io.BytesIO()
            Image.new("RGB", (64, 48)).save(picture, "png")
            edited = client.images.edit(image=picture.getvalue(), prompt="a cat", stream=True, partial_images=1)
            return [*drawn, *edited]

    async with open_fake_openai_images(drawing_s=0.3) as fake:
        fake.streams = True
        settings = {"IMAGES_BACKEND": "http_openai_images", "IMAGES_HTTP_BASE_URL": fake.base_url}
        with start_gateway(tmp_path, settings) as gateway:
            events = await trio.to_thread.run_sync(watch, gateway)
    generated = ["image_generation.partial_image"] * 2 + ["image_generation.completed"]
    assert [event.type for event in events] == [*generated, "image_edit.partial_image", "image_edit.completed"]
    assert [event.partial_image_index for event in events if hasattr(event, "partial_image_index")] == [0, 1, 0]
    assert {event.usage.total_tokens for event in events if event.type.endswith("completed")} == {3}
    assert all(b"a preview" not in base64.b64decode(event.b64_json) for event in events)


async def test_an_error_in_the_stream_is_raised_by_the_sdk_and_leaving_it_interrupts_the_job(tmp_path: Path) -> None:
    def fail(gateway: GatewayProcess) -> None:
        with sdk(gateway) as client, pytest.raises(openai.APIError, match="CUDA"):
            list(client.images.generate(prompt="a fox", size="64x48", stream=True))  # type: ignore[call-overload] # as above

    def leave(gateway: GatewayProcess) -> None:
        with sdk(gateway) as client:
            stream = client.images.generate(prompt="a fox", size="64x48", stream=True, partial_images=1)  # type: ignore[call-overload] # as above
            next(iter(stream))
            stream.close()

    async with open_fake_a1111(Behaviour(credentials="me:secret", fail_with="CUDA out of memory")) as fake:
        with start_gateway(tmp_path, settings_for(fake)) as gateway:
            await trio.to_thread.run_sync(fail, gateway)
            fake.behaviour.fail_with = None
            fake.behaviour.step_s = 0.5
            await trio.to_thread.run_sync(leave, gateway)
            with trio.fail_after(10):
                await fake.until_idle()
            assert fake.counts.interrupted == 1
