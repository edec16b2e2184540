"""Canonical JSON, ids and magic bytes."""

import pytest

from appliance.protocol.canonical import canonical_json, compact_json, sha256_hex
from appliance.protocol.ids import is_id, new_id
from appliance.protocol.magic import sniff_image


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, "af9575d59fcd216d806426a07271a738a48073b2e06385251be99ca2847f57d7"),
        ({"text": "a"}, "0869d184303c81a6924d5424320a0ba3fa28c1797634b345a8d5d25ef6d3912d"),
        ({"text": "é☃"}, "3ab521bda6d4ba6bb1e52021eee53b79f52a082bdfab54f94917452d3cc471df"),
    ],
)
def test_the_contracts_hash_vectors_hold(arguments: dict[str, str], expected: str) -> None:
    text = canonical_json({"tool": "noop", "version": "1", "arguments": arguments})
    assert sha256_hex(text.encode()) == expected


def test_canonical_json_has_no_word_for_nan() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json({"a": float("nan")})


def test_ids_are_a_prefix_and_24_hex_digits_and_never_the_same() -> None:
    made = {new_id("req") for _ in range(1000)}
    assert len(made) == 1000
    assert all(is_id("req", text) for text in made)


@pytest.mark.parametrize(
    "text", ["", "req-", "req-" + "0" * 23, "req-" + "A" * 24, "run-" + "0" * 24, "req-" + "0" * 24 + "\n"]
)
def test_what_is_not_quite_an_id_is_none(text: str) -> None:
    assert not is_id("req", text)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"\x89PNG\r\n\x1a\n....", "png"),
        (b"\xff\xd8\xff\xe0", "jpeg"),
        (b"RIFF\x00\x00\x00\x00WEBPVP8 ", "webp"),
        (b"RIFF\x00\x00\x00\x00WAVE", None),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", None),
        (b"GIF89a", None),
        (b"", None),
    ],
)
def test_images_are_typed_by_their_first_bytes(data: bytes, kind: str | None) -> None:
    assert sniff_image(data) == kind


def test_half_a_surrogate_pair_is_written_escaped_and_everything_else_as_utf_8() -> None:
    assert compact_json({"a": "h\u00e9"}) == '{"a":"hé"}'.encode()
    assert compact_json({"a": "\ud83d"}) == b'{"a":"\\ud83d"}'
