"""Picture size: width and height out of a picture's first bytes, before anybody decodes it.

Formats: PNG (RFC 2083, 4.1.1), JPEG (ITU T.81, B.2.2), WebP (RFC 9649, 2.5 to 2.7).
"""

from appliance.protocol.magic import ImageType

_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF0 to SOF15, without DHT, JPG and DAC
_JPEG_ALONE = frozenset({0x01, *range(0xD0, 0xD8)})  # markers without a length

Size = tuple[int, int]


def picture_size(start: bytes, kind: ImageType) -> Size | None:
    """Width and height in pixels, None where these bytes do not say."""
    if kind == "png":
        return _png(start)
    if kind == "jpeg":
        return _jpeg(start)
    return _webp(start) if kind == "webp" else None


def _png(start: bytes) -> Size | None:
    if start[12:16] != b"IHDR" or len(start) < 24:
        return None
    return int.from_bytes(start[16:20], "big"), int.from_bytes(start[20:24], "big")


def _jpeg(start: bytes) -> Size | None:
    at = 2
    while at + 9 <= len(start) and start[at] == 0xFF:
        marker = start[at + 1]
        if marker in _JPEG_FRAMES:
            return int.from_bytes(start[at + 7 : at + 9], "big"), int.from_bytes(start[at + 5 : at + 7], "big")
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        size = 0 if marker in _JPEG_ALONE else int.from_bytes(start[at + 2 : at + 4], "big")
        at += 2 + size
    return None


def _webp(start: bytes) -> Size | None:
    name, body = start[12:16], start[20:30]
    if len(body) < 10:
        return None
    if name == b"VP8X":
        return 1 + int.from_bytes(body[4:7], "little"), 1 + int.from_bytes(body[7:10], "little")
    if name == b"VP8L" and body[0] == 0x2F:
        bits = int.from_bytes(body[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if name == b"VP8 " and body[3:6] == b"\x9d\x01\x2a":
        return int.from_bytes(body[6:8], "little") & 0x3FFF, int.from_bytes(body[8:10], "little") & 0x3FFF
    return None
