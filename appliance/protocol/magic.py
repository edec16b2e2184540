"""Magic bytes: what an image is, by its content and never by what somebody says of it."""

from typing import Literal

ImageType = Literal["png", "jpeg", "webp", "svg"]

MIME: dict[ImageType, str] = {
    "png": "image/png",
    "jpeg": "image/jpeg",
    "webp": "image/webp",
    "svg": "image/svg+xml",
}
EXTENSION: dict[ImageType, str] = {"png": "png", "jpeg": "jpg", "webp": "webp", "svg": "svg"}


def sniff_image(data: bytes) -> ImageType | None:
    """Name the raster format of these bytes, or None. SVG is never sniffed: only our own mock makes it.

    Signatures: PNG (RFC 2083, 12.12), JPEG (SOI and a marker), WebP (RIFF container, RFC 9649).
    """
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if data.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    return None
