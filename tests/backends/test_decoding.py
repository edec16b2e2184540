"""Decoding: base64 that is exactly right, pictures that are whole, and nothing in them but the picture."""

import base64
import io
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Pillow
from PIL.PngImagePlugin import PngInfo

from appliance.backends.decoding import _PIECE_CHARS, answer_cap_bytes, decode_images
from appliance.backends.metadata import BadPicture, strip_metadata
from appliance.protocol.errors import UpstreamFailed
from tests.backends.calls import image_call
from tests.fakes.pictures import png

SECRET = "the whole prompt, model.safetensors"


def picture(kind, size=(40, 30)):
    """A real picture as image servers send it, with the prompt in its metadata."""
    drawn = Pillow.effect_mandelbrot(size, (-2, -1.5, 1, 1.5), 20).convert("RGB")
    out = io.BytesIO()
    if kind == "png":
        notes = PngInfo()
        notes.add_text("parameters", SECRET)
        notes.add_itxt("prompt", SECRET)
        notes.add_text("workflow", SECRET, zip=True)
        drawn.save(out, "PNG", pnginfo=notes)
    else:
        exif = Pillow.Exif()
        exif[0x9286] = SECRET
        exif[0x010E] = SECRET
        options = {"comment": SECRET} if kind == "jpeg" else {"xmp": SECRET.encode()}
        drawn.save(out, kind.upper(), exif=exif, **options)
    return out.getvalue()


def encoded(data):
    return base64.b64encode(data).decode()


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
async def test_picture_keeps_its_pixels_and_loses_its_text(kind):
    data = picture(kind)
    assert b"safetensors" in data
    (image,) = await decode_images([encoded(data)], image_call())
    assert image.type == kind
    assert b"safetensors" not in image.data
    before, after = Pillow.open(io.BytesIO(data)), Pillow.open(io.BytesIO(image.data))
    assert before.tobytes() == after.tobytes()
    assert not after.getexif()


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_picture_cut_anywhere_is_refused(kind):
    data = picture(kind, (20, 15))
    for length in range(12, len(data) - 1, 7):
        with pytest.raises(BadPicture):
            strip_metadata(data[:length], kind)


@given(st.sampled_from([b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF"]), st.binary(max_size=200))
def test_any_bytes_are_a_picture_or_refused(start, rest):
    kinds = {b"\x89PNG\r\n\x1a\n": "png", b"\xff\xd8\xff": "jpeg", b"RIFF": "webp"}
    try:
        strip_metadata(start + rest, kinds[start])
    except BadPicture:
        return


async def test_jpeg_with_thousands_of_fill_bytes_is_walked():
    with pytest.raises(UpstreamFailed):
        await decode_images([encoded(b"\xff\xd8" + b"\xff" * 1_000_000)], image_call())


async def test_large_picture_is_decoded_in_pieces():
    noise = struct.pack(">I", 7_000_000) + b"IDAT" + bytes(7_000_000) + b"\x00" * 4
    plain = png(8, 8)
    data = plain[:33] + noise + plain[33:]
    assert len(encoded(data)) > 2 * _PIECE_CHARS
    (image,) = await decode_images([encoded(data)], image_call())
    assert image.data == data


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
async def test_text_of_a_picture_that_says_nothing_else_is_used_again(kind):
    clean = strip_metadata(picture(kind), kind)
    assert strip_metadata(clean, kind) is clean
    (image,) = await decode_images([text := encoded(clean)], image_call())
    assert image.as_base64() is text


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
async def test_text_of_a_picture_that_lost_its_metadata_is_not_used_again(kind):
    (image,) = await decode_images([encoded(picture(kind))], image_call())
    assert image.as_base64() == encoded(image.data)


async def test_padding_between_pieces_is_refused():
    first = encoded(bytes(_PIECE_CHARS // 4 * 3 - 1))
    assert len(first) == _PIECE_CHARS
    with pytest.raises(UpstreamFailed, match="base64"):
        await decode_images([first + encoded(b"more")], image_call())


@pytest.mark.parametrize("spoil", ["\n", " ", "=", "-", "_", "é", "\x00"])
async def test_anything_but_base64_is_refused(spoil):
    good = encoded(png(8, 8))
    for text in (good + spoil, spoil + good, good[:9] + spoil + good[9:]):
        with pytest.raises(UpstreamFailed, match="base64"):
            await decode_images([text], image_call())


async def test_stray_bits_are_refused():
    text = encoded(png(8, 8) + b"xx")
    assert text.endswith("==")
    with pytest.raises(UpstreamFailed, match="base64"):
        await decode_images([text[:-3] + chr(ord(text[-3]) + 1) + "=="], image_call())


async def test_more_pictures_than_asked_for_are_dropped():
    assert len(await decode_images([encoded(png(8, 8))] * 4, image_call(n=2))) == 2


async def test_size_is_refused_before_decoding():
    with pytest.raises(UpstreamFailed, match="images_max_bytes"):
        await decode_images(["!" * 1000], image_call(images_max_bytes=100))


async def test_exactly_the_allowed_size_is_served():
    data = png(8, 8)
    assert await decode_images([encoded(data)], image_call(images_max_bytes=len(data)))
    with pytest.raises(UpstreamFailed):
        await decode_images([encoded(data)], image_call(images_max_bytes=len(data) - 1))


def test_answer_cap_follows_from_what_was_asked():
    mebi = 1024 * 1024
    assert answer_cap_bytes(image_call(n=1, images_max_bytes=3 * mebi)) == 4 * mebi + 16 * mebi
    assert answer_cap_bytes(image_call(n=4, images_max_bytes=50 * mebi)) < (64 * 4 / 3 + 17) * mebi
