"""Metadata: image servers write prompt, model files and settings into their pictures; a client gets the picture alone.

Walks the containers and nothing deeper, which also finds a picture that was cut short. Formats: PNG (RFC 2083, 3),
JPEG (ITU T.81, B.1), WebP (RFC 9649, 2).
"""

from collections.abc import Iterable, Iterator

from appliance.protocol.magic import ImageType

_PNG_SIGNATURE_BYTES = 8
_PNG_TEXT = frozenset({b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"tIME"})
_WEBP_TEXT = frozenset({b"EXIF", b"XMP "})
_WEBP_EXTENDED = b"VP8X"
_WEBP_TEXT_FLAGS = 0x08 | 0x04  # of VP8X: there is EXIF, there is XMP
_JPEG_TEXT = frozenset({0xE1, 0xED, 0xFE})  # APP1 (EXIF, XMP), APP13 (IPTC), COM
_JPEG_SCAN = 0xDA
_JPEG_ALONE = frozenset({0x01, *range(0xD0, 0xD8)})  # markers without a length


class BadPicture(Exception):
    """The container is not whole."""


_Span = tuple[int, int]


def strip_metadata(data: bytes, kind: ImageType) -> bytes:
    """Give the picture without its text, `data` itself where there is none.

    Raises BadPicture where the container is cut short or malformed.
    """
    if kind == "png":
        return _keep(data, _png_spans(data))
    if kind == "webp":
        return _webp(data)
    if kind == "jpeg":
        return _keep(data, _jpeg_spans(data))
    raise BadPicture("not a kind that backends send")


def _keep(data: bytes, spans: Iterable[_Span]) -> bytes:
    """What the spans name, which are in order; nothing is copied where that is everything."""
    merged: list[_Span] = []
    for start, end in spans:
        if merged and merged[-1][1] == start:
            merged[-1] = (merged[-1][0], end)
        else:
            merged.append((start, end))
    if merged == [(0, len(data))]:
        return data
    return b"".join(memoryview(data)[start:end] for start, end in merged)


def _png_spans(data: bytes) -> Iterator[_Span]:
    """Chunks are length, name, data, CRC; what follows IEND is dropped."""
    at = _PNG_SIGNATURE_BYTES
    yield 0, at
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        name = data[at + 4 : at + 8]
        if end > len(data):
            break
        if at == _PNG_SIGNATURE_BYTES and name != b"IHDR":
            raise BadPicture("its first chunk is not IHDR")
        if name not in _PNG_TEXT:
            yield at, end
        if name == b"IEND":
            return
        at = end
    raise BadPicture("cut short")


def _webp(data: bytes) -> bytes:
    kept = []
    at, end = 12, 8 + int.from_bytes(data[4:8], "little")
    if end > len(data) or end < 20:
        raise BadPicture("cut short")
    while at < end:
        size = int.from_bytes(data[at + 4 : at + 8], "little")
        after = at + 8 + size + size % 2
        if after > end:
            raise BadPicture("cut short")
        name, chunk = data[at : at + 4], data[at:after]
        if name == _WEBP_EXTENDED and size:
            chunk = chunk[:8] + bytes([chunk[8] & ~_WEBP_TEXT_FLAGS]) + chunk[9:]
        if name not in _WEBP_TEXT:
            kept.append(chunk)
        at = after
    body = b"WEBP" + b"".join(kept)
    stripped = b"RIFF" + len(body).to_bytes(4, "little") + body
    return data if stripped == data else stripped


def _jpeg_spans(data: bytes) -> Iterator[_Span]:
    """Segments up to the first scan; the scans follow as they are, to an end-of-image marker."""
    yield 0, 2
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == _JPEG_SCAN:
            end = data.rfind(b"\xff\xd9")
            if end < at:
                break
            yield at, end + 2
            return
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        size = 0 if marker in _JPEG_ALONE else int.from_bytes(data[at + 2 : at + 4], "big")
        if marker not in _JPEG_TEXT:
            yield at, at + 2 + size
        at += 2 + size
    raise BadPicture("cut short")
