"""Edits on A1111: img2img, and masks as its servers want them."""

import base64
import io

import pytest
from PIL import Image as Pillow

from appliance.backends.a1111 import A1111Backend
from appliance.backends.base import ImageEdit
from appliance.config.settings import Settings
from appliance.protocol.errors import InvalidRequest
from appliance.protocol.images import Image
from appliance.upstream.client import open_upstream
from tests.backends.calls import draw, image_call
from tests.fakes.a1111 import open_fake_a1111

BACKEND = A1111Backend()


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
