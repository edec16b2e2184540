"""Mock: an SVG that is a pure function of prompt, width and height, for a gateway without a GPU."""

import hashlib
from contextlib import AsyncExitStack
from itertools import pairwise

from appliance.backends.base import ImageCall, ImageResult
from appliance.protocol.images import Image
from appliance.upstream.client import UpstreamClient

MAX_PROMPT_CHARS = 400


class MockBackend:
    """Draws at once, needs no backend, ignores options. All `n` pictures are the same: the prompt decides alone."""

    async def draw(self, call: ImageCall, upstream: UpstreamClient, cleanup: AsyncExitStack) -> ImageResult:
        data = draw_svg(call.prompt, call.width, call.height)
        return ImageResult(images=(Image(data=data, type="svg"),) * call.n)


def draw_svg(prompt: str, width: int, height: int) -> bytes:
    """Same input, same bytes, on every machine: integers and fixed text alone, no fonts measured, no floats.

    Only the prompt stripped and cut at 400 characters counts. Valid XML 1.0 for any prompt.
    """
    text = prompt.strip()[:MAX_PROMPT_CHARS]
    seed = hashlib.sha256(f"{width}x{height}\n{text}".encode("utf-8", "surrogatepass")).digest()
    parts = [*_sky(seed, width, height), *_hills(seed, width, height), *_caption(text, width, height)]
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" role="img">\n{body}\n</svg>\n'
    ).encode()


def _sky(seed: bytes, width: int, height: int) -> list[str]:
    hue = int.from_bytes(seed[0:2], "big") % 360
    radius = max(1, min(width, height) * (10 + seed[2] % 8) // 100)
    x, y = width * (15 + seed[3] % 70) // 100, height * (18 + seed[4] % 25) // 100
    stops = (
        f'<stop offset="0" stop-color="hsl({hue},60%,32%)"/>'
        f'<stop offset="1" stop-color="hsl({(hue + 40) % 360},78%,78%)"/>'
    )
    return [
        f'<defs><linearGradient id="sky" x1="0" y1="0" x2="0" y2="1">{stops}</linearGradient></defs>',
        f'<rect width="{width}" height="{height}" fill="url(#sky)"/>',
        f'<circle cx="{x}" cy="{y}" r="{radius * 2}" fill="hsl({(hue + 60) % 360},90%,90%)" opacity="0.25"/>',
        f'<circle cx="{x}" cy="{y}" r="{radius}" fill="hsl({(hue + 60) % 360},90%,92%)"/>',
    ]


def _hills(seed: bytes, width: int, height: int) -> list[str]:
    """Four ridges, the nearer the darker."""
    hue = int.from_bytes(seed[0:2], "big") % 360
    return [_ridge(seed[5 + 6 * row : 11 + 6 * row], row, hue, width, height) for row in range(4)]


def _ridge(bytes_: bytes, row: int, hue: int, width: int, height: int) -> str:
    base = height * (48 + 11 * row) // 100
    points = [(width * step // 5, base - height * (bytes_[step] % 16) // 100) for step in range(6)]
    path = f"M0 {points[0][1]}"
    for (left, top), (right, bottom) in pairwise(points):
        middle = (left + right) // 2
        path += f" C{middle} {top} {middle} {bottom} {right} {bottom}"
    lightness = 56 - 12 * row
    return f'<path d="{path} V{height} H0 Z" fill="hsl({(hue + 150 + 14 * row) % 360},42%,{lightness}%)"/>'


def _caption(text: str, width: int, height: int) -> list[str]:
    """The prompt at the foot, as large as its lines allow. 0.6 em: the width of a monospace letter."""
    clean = _printable(text)
    size = max(1, min(width // 20, height // 12))
    lines = _wrap(clean, width * 3 // (size * 2))
    while len(lines) * size * 13 // 10 > height * 4 // 10 and size > 1:
        size -= 1 + size // 10
        lines = _wrap(clean, width * 3 // (size * 2))
    leading = max(1, size * 13 // 10)
    band = leading * len(lines) + size
    rows = [
        f'<text x="{width // 2}" y="{height - band + size + leading * row}">{_escape(line)}</text>'
        for row, line in enumerate(lines)
    ]
    return [
        f'<rect y="{height - band - size // 2}" width="{width}" height="{band + size // 2}" fill="#000" opacity="0.45"/>',
        f'<g font-family="ui-monospace,Menlo,Consolas,monospace" font-size="{size}" fill="#fff" text-anchor="middle">',
        *rows,
        "</g>",
    ]


def _wrap(text: str, columns: int) -> list[str]:
    """Greedy, and our own: the standard library's rules, and what it calls a wide letter, differ between versions."""
    lines = [""]
    room = columns
    for word in text.split(" "):
        if _columns(word) + 1 > room and lines[-1]:
            lines.append("")
            room = columns
        for char in word:
            if _columns(char) > room and lines[-1]:
                lines.append("")
                room = columns
            lines[-1] += char
            room -= _columns(char)
        lines[-1] += " "
        room -= 1
    return [line.rstrip(" ") for line in lines]


def _columns(text: str) -> int:
    """Letters from Hangul Jamo on, which is East Asia and the emoji, are about twice as wide."""
    return sum(2 if ord(char) >= 0x1100 else 1 for char in text)


def _printable(text: str) -> str:
    """What XML 1.0 does not allow (its production 2, Char) becomes U+FFFD; white space becomes one blank."""
    return " ".join("".join(char if _is_xml_char(ord(char)) else "\ufffd" for char in text).split())


def _is_xml_char(code: int) -> bool:
    return code in (9, 10, 13) or 0x20 <= code <= 0xD7FF or 0xE000 <= code <= 0xFFFD or 0x10000 <= code <= 0x10FFFF


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
