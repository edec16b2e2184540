"""Picture size: what an independent library writes is read, and nothing that is cut or made up raises."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from appliance.protocol.magic import ImageType
from appliance.protocol.picture_size import picture_size

KINDS: tuple[ImageType, ...] = ("png", "jpeg", "webp")


def drawn(kind: str, size: tuple[int, int], mode: str = "RGB", **how: object) -> bytes:
    out = io.BytesIO()
    Image.new(mode, size, (9,) * len(mode)).save(out, kind, **how)  # type: ignore[arg-type] # pillow's options
    return out.getvalue()


@pytest.mark.parametrize("size", [(1, 1), (64, 48), (1023, 7), (16, 4097)])
@pytest.mark.parametrize(
    ("kind", "mode", "how"),
    [
        ("png", "RGB", {}),
        ("jpeg", "RGB", {}),
        ("jpeg", "RGB", {"progressive": True, "exif": b"Exif\0\0" + b"x" * 3000}),
        ("webp", "RGB", {}),
        ("webp", "RGB", {"lossless": True}),
        ("webp", "RGBA", {"exif": b"Exif\0\0MM"}),
    ],
)
def test_sizes_are_those_the_library_wrote(
    kind: ImageType, mode: str, how: dict[str, object], size: tuple[int, int]
) -> None:
    assert picture_size(drawn(kind, size, mode, **how), kind) == size


@given(st.sampled_from(KINDS), st.binary(max_size=64))
def test_nothing_raises(kind: ImageType, data: bytes) -> None:
    picture_size(data, kind)


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_that_is_cut_says_nothing_or_the_truth(kind: ImageType) -> None:
    whole = drawn(kind, (64, 48))
    assert {picture_size(whole[:length], kind) for length in range(len(whole))} <= {None, (64, 48)}
