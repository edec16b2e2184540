"""Pictures for fakes: whole, small, and with the text in them that image servers write."""

import struct
import zlib


def png(width: int, height: int, *, text: str = "", shade: int = 0) -> bytes:
    """A one-bit grey PNG; `text` becomes a `parameters` chunk, as A1111 and stable-diffusion.cpp write it."""
    row = b"\x00" + bytes([shade & 0xFF]) * ((width + 7) // 8)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))]
    if text:
        chunks.append((b"tEXt", b"parameters\x00" + text.encode("latin-1", "replace")))
    chunks += [(b"IDAT", zlib.compress(row * height)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, data) for name, data in chunks)


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
