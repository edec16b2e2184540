"""Decoding: base64 from a backend becomes checked pictures, or the answer is unusable (502)."""

import math
from collections.abc import Sequence
from dataclasses import replace

import trio

from appliance.backends.base import ImageCall
from appliance.backends.metadata import BadPicture, strip_metadata
from appliance.protocol.base64text import BadBase64, decode_base64
from appliance.protocol.errors import UpstreamFailed
from appliance.protocol.images import Image
from appliance.protocol.magic import sniff_image
from appliance.upstream.exchange import MAX_JSON_BYTES

MAX_DECODED_BYTES = 64 * 1024 * 1024  # threats: all pictures of one answer

_PIECE_CHARS = 4 * 1024 * 1024  # 1.5 ms to decode: what one step may keep the other requests waiting


def answer_cap_bytes(call: ImageCall) -> int:
    """How large the JSON around the pictures may be: base64 is 4/3, and servers repeat the request beside them."""
    decoded = min(call.n * call.backend_class.payload_policy.images_max_bytes, MAX_DECODED_BYTES)
    return math.ceil(decoded * 4 / 3) + MAX_JSON_BYTES


async def decode_images(encoded: Sequence[object], call: ImageCall) -> tuple[Image, ...]:
    """Decode at most `call.n` pictures. Raises UpstreamFailed for none at all and for one that is not what it should be.

    Steps aside between pieces of four megabytes.
    """
    images = []
    total = 0
    for item in encoded[: call.n]:
        image = await _decode_image(item, call)
        total += len(image.data)
        if total > MAX_DECODED_BYTES:
            raise unusable(call, f"more than {MAX_DECODED_BYTES} bytes of pictures")
        images.append(image)
    if not images:
        raise unusable(call, "no picture")
    return tuple(images)


def unusable(call: ImageCall, what: str) -> UpstreamFailed:
    name = call.backend_class.name
    return UpstreamFailed(f"{name} answered {what}.", upstream=name)


async def _decode_image(encoded: object, call: ImageCall) -> Image:
    if not isinstance(encoded, str) or not encoded:
        raise unusable(call, "a picture that is not base64 text")
    max_bytes = call.backend_class.payload_policy.images_max_bytes
    if len(encoded) // 4 * 3 - 2 > max_bytes:
        raise unusable(call, f"a picture of more than {max_bytes} bytes, this class's images_max_bytes")
    try:
        data = await _decode_in_pieces(encoded)
    except BadBase64:
        raise unusable(call, "a picture that is not valid base64") from None
    image = image_from_bytes(data, call)
    return replace(image, encoded=encoded) if image.data is data else image


def image_from_bytes(data: bytes, call: ImageCall) -> Image:
    """Type the bytes and take out what they say beside the picture: they are its `data` themselves if that is nothing.

    Raises UpstreamFailed.
    """
    max_bytes = call.backend_class.payload_policy.images_max_bytes
    if len(data) > max_bytes:
        raise unusable(call, f"a picture of more than {max_bytes} bytes, this class's images_max_bytes")
    kind = sniff_image(data)
    if kind is None:
        raise unusable(call, "bytes that are no PNG, JPEG or WebP")
    try:
        return Image(data=strip_metadata(data, kind), type=kind)
    except BadPicture as problem:
        raise unusable(call, f"a broken {kind.upper()}: {problem}") from None


async def _decode_in_pieces(text: str) -> bytes:
    """Canonical, so that the text may stand for its bytes again. Raises BadBase64."""
    if len(text) <= _PIECE_CHARS:
        return decode_base64(text)
    pieces = []
    for start in range(0, len(text), _PIECE_CHARS):
        piece = text[start : start + _PIECE_CHARS]
        if piece.endswith("=") and start + _PIECE_CHARS < len(text):
            raise BadBase64
        pieces.append(decode_base64(piece))
        await trio.lowlevel.checkpoint()
    return b"".join(pieces)
