"""Fuzz mutations: valid requests to begin with, and what is done to their bytes. All chance comes in as `dice`."""

import random

_BODY = b'{"prompt":"a cat","size":"64x64"}'
_HOST = b"Host: 127.0.0.1\r\n"
_UPGRADE = (
    b"GET /health HTTP/1.1\r\n" + _HOST + b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
_FRAME = b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58"
_GET = b"GET /health HTTP/1.1\r\n" + _HOST + b"Accept: */*\r\n\r\n"
_POST = b"POST /v1/images/generations HTTP/1.1\r\n" + _HOST + b"Content-Type: application/json\r\n"

SEEDS = (
    _GET,
    _GET * 8,
    _GET.replace(b"GET", b"HEAD") + _GET,
    b"GET /health HTTP/1.0\r\n\r\n",
    _POST + b"Content-Length: %d\r\n\r\n" % len(_BODY) + _BODY,
    _POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"%x\r\n%s\r\n0\r\n\r\n" % (len(_BODY), _BODY) + _GET,
    _POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 200 + b"0\r\n\r\n",
    _POST + b"Expect: 100-continue\r\nContent-Length: 33\r\n\r\n" + _BODY,
    _POST + b"Content-Length: 300000\r\n\r\n" + b"x" * 30_000,
    _UPGRADE + _FRAME,
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
    b"GET / HTTP/1.1\r\n"
    + _HOST
    + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(64)),
    b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n" + _HOST + b"\r\n",
    b"GET / HTTP/1.1\r\n" + _HOST + b"X-A: b\r\n" * 150 + b"\r\n",
)

TOKENS = (
    b"\r\n",
    b"\n",
    b"\r",
    b"\r\n\r\n",
    b"\x00",
    b"\xff",
    b" ",
    b"\t",
    b":",
    b"0\r\n\r\n",
    b"ffffffff\r\n",
    b"-1",
    b"99999999999999999999",
    b"Content-Length: 5\r\n",
    b"Content-Length: +5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: identity\r\n",
    b"Host: other\r\n",
    b"Connection: close\r\n",
    b"Upgrade: websocket\r\n",
    b"Expect: 100-continue\r\n",
    b" folded\r\n",
    b"HTTP/2.0",
    b"HTTP/0.9",
    _FRAME,
    _GET,
)


def make_case(dice: random.Random) -> list[bytes]:
    """The pieces that one connection sends, one packet each as far as the kernel lets them."""
    data = dice.choice(SEEDS)
    for _ in range(dice.choice((0, 1, 1, 2, 3, 6))):
        data = _mutate(data, dice)
    if dice.random() < 0.6 or not data:
        return [data]
    cuts = sorted(dice.randrange(len(data) + 1) for _ in range(dice.randrange(1, 6)))
    return [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True) if start < end]


def _mutate(data: bytes, dice: random.Random) -> bytes:
    place = dice.randrange(len(data) + 1)
    end = min(len(data), place + dice.randrange(1, 64))
    kind = dice.randrange(7)
    if kind == 0 and place < len(data):  # flip a bit
        return data[:place] + bytes([data[place] ^ (1 << dice.randrange(8))]) + data[place + 1 :]
    if kind == 1:  # truncate
        return data[:place]
    if kind == 2:  # delete
        return data[:place] + data[end:]
    if kind == 3:  # duplicate
        return data[:end] + data[place:]
    if kind == 4:  # splice
        other = dice.choice(SEEDS)
        return data[:place] + other[dice.randrange(len(other)) :]
    if kind == 5:  # noise
        return data[:place] + dice.randbytes(dice.randrange(1, 32)) + data[place:]
    return data[:place] + dice.choice(TOKENS) + data[place:]
