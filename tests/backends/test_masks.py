"""Masks: the alpha channel as an independent library sees it, and a word for every mask that is none."""

import contextlib
import io
import random
import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from appliance.backends.masks import white_where_transparent
from appliance.protocol.errors import InvalidRequest


def encode(image: Image.Image, **how: object) -> bytes:
    out = io.BytesIO()
    image.save(out, "png", **how)
    return out.getvalue()


def filtered(image: Image.Image, kinds: list[int]) -> bytes:
    """An RGBA PNG whose rows use these filters in turn (RFC 2083, 6)."""
    width, height = image.size
    rows = [image.crop((0, y, width, y + 1)).tobytes() for y in range(height)]
    packed = b""
    for y, row in enumerate(rows):
        above = rows[y - 1] if y else bytes(len(row))
        packed += bytes([kinds[y % len(kinds)]]) + _filter(kinds[y % len(kinds)], row, above)
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)),
        (b"IDAT", zlib.compress(packed)),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )


def _filter(kind: int, row: bytes, above: bytes) -> bytes:
    out = bytearray()
    for at, byte in enumerate(row):
        left = row[at - 4] if at >= 4 else 0
        corner = above[at - 4] if at >= 4 else 0
        up = above[at]
        nearest = min((left, up, corner), key=lambda value: abs(left + up - corner - value))
        out.append((byte - [0, left, up, (left + up) // 2, nearest][kind]) & 255)
    return bytes(out)


def expected(image: Image.Image) -> bytes:
    return image.getchannel("A").point(lambda alpha: 255 if alpha < 128 else 0).tobytes()


def decoded(mask: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(mask))
    image.load()
    return image


def noise(seed: int, size: tuple[int, int], mode: str = "RGBA") -> Image.Image:
    channels = len(mode)
    return Image.frombytes(mode, size, random.Random(seed).randbytes(size[0] * size[1] * channels))


@given(st.integers(), st.integers(1, 17), st.integers(1, 9), st.lists(st.integers(0, 4), min_size=1, max_size=9))
def test_every_filter_is_undone(seed: int, width: int, height: int, kinds: list[int]) -> None:
    image = noise(seed, (width, height))
    if not any(expected(image)):
        return
    found = decoded(white_where_transparent(filtered(image, kinds)))
    assert (found.mode, found.size, found.tobytes()) == ("L", image.size, expected(image))
    assert decoded(filtered(image, kinds)).tobytes() == image.tobytes(), "the library reads the sample as we meant it"


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_masks_as_libraries_write_them(mode: str) -> None:
    image = noise(3, (65, 33), mode)
    assert decoded(white_where_transparent(encode(image, optimize=True))).tobytes() == expected(image)


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (Image.new("RGB", (8, 8)), "alpha channel"),
        (Image.new("L", (8, 8)), "alpha channel"),
        (noise(1, (8, 8)).quantize(), "alpha channel"),
        (Image.new("RGBA", (8, 8), (0, 0, 0, 255)), "transparent nowhere"),
    ],
)
def test_a_mask_that_hides_nothing_is_refused(image: Image.Image, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words) as caught:
        white_where_transparent(encode(image))
    assert caught.value.param == "mask"


@given(st.integers(0, 200), st.binary(max_size=30))
def test_a_broken_mask_is_refused_and_nothing_else_is_raised(at: int, junk: bytes) -> None:
    whole = encode(noise(5, (16, 16)))
    with contextlib.suppress(InvalidRequest):
        white_where_transparent(whole[:at] + junk + whole[at + len(junk) :])


@pytest.mark.parametrize("size", [(100_000, 100_000), (2**31, 2**31)])
def test_a_mask_that_says_it_is_huge_is_refused_before_anything_is_made_of_it(size: tuple[int, int]) -> None:
    header = struct.pack(">IIBBBBB", *size, 8, 6, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR" + header + bytes(4)
    with pytest.raises(InvalidRequest, match="larger than any picture"):
        white_where_transparent(data)


def test_a_bomb_is_not_inflated() -> None:
    bomb = zlib.compress(bytes(50_000_000))
    header = struct.pack(">IIBBBBB", 4, 4, 8, 6, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n"
    for name, content in ((b"IHDR", header), (b"IDAT", bomb), (b"IEND", b"")):
        data += struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
    assert decoded(white_where_transparent(data)).size == (4, 4)
