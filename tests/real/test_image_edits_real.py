"""Edits from end to end: the openai SDK in front, the running gateway, stable-diffusion.cpp's real server behind it."""

import base64
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import openai
import pytest
import trio
import webuiapi
from PIL import Image

from tests.fakes.a1111 import Behaviour, open_fake_a1111
from tests.process import TOKEN, GatewayProcess, start_gateway
from tests.real.sdserver import SdServer
from tests.real.sdserver.launch import open_sd_server

pytestmark = pytest.mark.real

SIZE = (64, 64)


def picture(mode: str = "RGB") -> Image.Image:
    return Image.linear_gradient("L").resize(SIZE).convert(mode)


def left_half_transparent() -> Image.Image:
    mask = Image.new("RGBA", SIZE, (0, 0, 0, 255))
    mask.paste((0, 0, 0, 0), (0, 0, 32, 64))
    return mask


def png(image: Image.Image) -> tuple[str, bytes]:
    out = io.BytesIO()
    image.save(out, "png")
    return "picture.png", out.getvalue()


@asynccontextmanager
async def open_gateway(tmp_path: Path, sd_server: SdServer, kind: str) -> AsyncIterator[GatewayProcess]:
    folder = tmp_path / "sd"
    folder.mkdir()
    async with open_sd_server(sd_server, folder) as running:
        settings = {
            "IMAGES_BACKEND": kind,
            "IMAGES_HTTP_BASE_URL": running.base_url,
            "IMAGES_A1111_STEPS": "2",
            "HEALTH_CHECK_INTERVAL_SEC": "0.2",
        }
        with start_gateway(tmp_path, settings) as gateway:
            await trio.sleep(1)  # until it has been seen what server this is
            yield gateway


@pytest.mark.parametrize("kind", ["http_a1111", "http_openai_images"])
async def test_the_openai_sdk_edits_with_and_without_a_mask(tmp_path: Path, sd_server: SdServer, kind: str) -> None:
    def edit(gateway: GatewayProcess) -> None:
        with openai.OpenAI(base_url=gateway.url + "/v1", api_key=TOKEN, max_retries=0) as client:
            common = {"prompt": "a lighthouse", "response_format": "b64_json", "extra_body": {"seed": 5, "steps": 2}}
            plain = client.images.edit(image=png(picture()), **common)  # type: ignore[call-overload] # told apart by nothing
            masked = client.images.edit(image=png(picture()), mask=png(left_half_transparent()), **common)  # type: ignore[call-overload] # as above
            found = [base64.b64decode(answer.data[0].b64_json) for answer in (plain, masked)]
            assert [Image.open(io.BytesIO(data)).size for data in found] == [SIZE] * 2
            assert found[0] != found[1], "the mask counts"
            assert all(b"lighthouse" not in data for data in found)
            events = list(client.images.edit(image=png(picture()), prompt="a cat", stream=True, partial_images=1))
            assert [event.type for event in events] == ["image_edit.completed"]
            with pytest.raises(openai.BadRequestError, match="transparent nowhere"):
                client.images.edit(image=png(picture()), mask=png(picture("RGBA")), prompt="a cat")
            slots = client.get("/gateway/status", cast_to=dict[str, object])["admission_control"]
            assert slots["gpu_heavy.images"]["inflight"] == 0  # type: ignore[index] # JSON

    async with open_gateway(tmp_path, sd_server, kind) as gateway:
        await trio.to_thread.run_sync(edit, gateway)


def edit_as_webuiapi(base_url: str) -> webuiapi.WebUIApiResult:
    """An A1111 client that is none of ours; synchronous, so that it runs in a thread."""
    address = urlsplit(base_url)
    api = webuiapi.WebUIApi(host=address.hostname, port=address.port, sampler="Euler", steps=1)
    mask = Image.new("L", SIZE, 255)
    return api.img2img(images=[picture()], mask_image=mask, prompt="a fox", width=64, height=64, seed=7, cfg_scale=1.0)


async def test_an_independent_client_edits_on_the_fake_as_on_the_real_server(
    tmp_path: Path, sd_server: SdServer
) -> None:
    async with open_sd_server(sd_server, tmp_path) as running, open_fake_a1111(Behaviour(step_s=0.01)) as fake:
        real = await trio.to_thread.run_sync(edit_as_webuiapi, running.base_url)
        ours = await trio.to_thread.run_sync(edit_as_webuiapi, fake.base_url)
    assert real.image.size == ours.image.size == SIZE
    assert real.json.keys() == ours.json.keys()
    assert len(ours.json["parameters"]["init_images"]) == 1
