"""Masks: OpenAI's, transparent where the picture is painted anew, becomes the white on black of everybody else.

Decodes nothing but the alpha channel of a PNG (RFC 2083, 6 and 9), which needs none of the others: filters work on
bytes that are one pixel apart. Three megapixels take about a second, so callers do it in a thread.
"""

import struct
import zlib
from collections.abc import Callable, Sequence
from itertools import accumulate

from appliance.protocol.errors import InvalidRequest

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_ALPHA_CHANNELS = {4: 2, 6: 4}  # colour type -> channels, alpha last: grey and alpha, red, green, blue and alpha
_MAX_BYTES = 256 * 1024 * 1024  # 32 megapixels of 16 bits; IMAGES_MAX_PIXELS is far below
_OPAQUE_FROM = 128
_TO_MASK = bytes(255 if alpha < _OPAQUE_FROM else 0 for alpha in range(256))


def white_where_transparent(mask: bytes) -> bytes:
    """A grey PNG of 8 bits: white where `mask` is transparent, black elsewhere.

    Raises InvalidRequest for a mask without an alpha channel, one that hides nothing, and a broken one.
    """
    chunks = _chunks(mask)
    width, height, depth, colour, interlaced = _header(chunks)
    channels = _ALPHA_CHANNELS.get(colour)
    if channels is None or depth not in (8, 16) or interlaced:
        raise _bad("must be a PNG with an alpha channel, of 8 or 16 bits, not interlaced")
    pixel_bytes = channels * depth // 8
    row_bytes = 1 + width * pixel_bytes
    pixels = _inflate(b"".join(data for name, data in chunks if name == b"IDAT"), row_bytes * height)
    # Of 16 bits the high byte decides.
    rows = _alpha_rows(pixels, row_bytes, pixel_bytes, pixel_bytes - depth // 8)
    painted = [row.translate(_TO_MASK) for row in rows]
    if not any(map(any, painted)):
        raise _bad("is transparent nowhere: make the part to paint anew transparent")
    return _grey_png(width, height, painted)


def _chunks(data: bytes) -> Sequence[tuple[bytes, bytes]]:
    if not data.startswith(_SIGNATURE):
        raise _bad("must be a PNG with an alpha channel")
    found = []
    at = len(_SIGNATURE)
    while at + 12 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        found.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += 12 + size
    return found


def _header(chunks: Sequence[tuple[bytes, bytes]]) -> tuple[int, int, int, int, bool]:
    if not chunks or chunks[0][0] != b"IHDR" or len(chunks[0][1]) != 13:
        raise _bad("is a broken PNG")
    width, height, depth, colour, _, _, interlace = struct.unpack(">IIBBBBB", chunks[0][1])
    return width, height, depth, colour, bool(interlace)


def _inflate(packed: bytes, size: int) -> bytes:
    """Exactly as many bytes as the header promises, and never more in memory."""
    if size > _MAX_BYTES:
        raise _bad("is a broken PNG, or larger than any picture here")
    try:
        pixels = zlib.decompressobj().decompress(packed, size)
    except zlib.error:
        pixels = b""
    if len(pixels) != size:
        raise _bad("is a broken PNG")
    return pixels


def _alpha_rows(pixels: bytes, row_bytes: int, pixel_bytes: int, offset: int) -> list[bytes]:
    rows = []
    above = bytes(row_bytes // pixel_bytes)
    for start in range(0, len(pixels), row_bytes):
        undo = _FILTERS.get(pixels[start])
        if undo is None:
            raise _bad("is a broken PNG")
        above = undo(pixels[start + 1 + offset : start + row_bytes : pixel_bytes], above)
        rows.append(above)
    return rows


def _undo_none(row: bytes, above: bytes) -> bytes:
    return row


def _undo_sub(row: bytes, above: bytes) -> bytes:
    return bytes(value & 255 for value in accumulate(row))


def _undo_up(row: bytes, above: bytes) -> bytes:
    return bytes([(byte + up) & 255 for byte, up in zip(row, above, strict=True)])


def _undo_average(row: bytes, above: bytes) -> bytes:
    out = bytearray(len(row))
    left = 0
    for at, byte in enumerate(row):
        out[at] = left = (byte + (left + above[at] >> 1)) & 255
    return bytes(out)


def _undo_paeth(row: bytes, above: bytes) -> bytes:
    out = bytearray(len(row))
    left = corner = 0
    for at, byte in enumerate(row):
        up = above[at]
        by_left, by_up, by_corner = abs(up - corner), abs(left - corner), abs(left + up - 2 * corner)
        nearest = left if by_left <= by_up and by_left <= by_corner else up if by_up <= by_corner else corner
        out[at] = left = (byte + nearest) & 255
        corner = up
    return bytes(out)


_FILTERS: dict[int, Callable[[bytes, bytes], bytes]] = {
    0: _undo_none,
    1: _undo_sub,
    2: _undo_up,
    3: _undo_average,
    4: _undo_paeth,
}


def _grey_png(width: int, height: int, rows: Sequence[bytes]) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows), 1)
    return _SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", pixels) + _chunk(b"IEND", b"")


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _bad(what: str) -> InvalidRequest:
    return InvalidRequest(f"mask {what}.", param="mask", code="invalid_value")
