"""Pictures: what bytes are, by their first few, and how large the picture is."""

import struct

MIMES = ("image/png", "image/jpeg", "image/webp", "image/svg+xml")


def sniff_mime(data: bytes) -> str | None:
    """Name the format. Signatures: PNG (RFC 2083), JPEG (SOI), WebP (RFC 9649); SVG is XML text with that root."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if data.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    head = data[:1024].lstrip()
    if head.startswith((b"<svg", b"<?xml")) and b"<svg" in head:
        return "image/svg+xml"
    return None


def describe(data: bytes) -> str:
    """Say format and size in a few words, for a report."""
    mime = sniff_mime(data)
    if mime is None:
        return f"{len(data)} bytes of no known picture format"
    if mime == "image/png" and len(data) >= 24:
        width, height = struct.unpack(">II", data[16:24])  # IHDR is the first chunk (RFC 2083, 4.1.1)
        return f"{mime} {width}x{height}, {len(data)} bytes"
    return f"{mime}, {len(data)} bytes"
