"""Forms: multipart/form-data (RFC 7578) for the servers that take pictures so."""

import secrets
from collections.abc import Iterable, Mapping

from appliance.protocol.images import Image
from appliance.protocol.magic import EXTENSION, MIME


def encode_form(fields: Mapping[str, str], pictures: Iterable[tuple[str, Image]]) -> tuple[str, bytes]:
    """The content type, boundary included, and the body. Names come from us, values may hold anything."""
    boundary = f"appliance-{secrets.token_hex(16)}"
    pieces = []
    for name, value in fields.items():
        pieces += [_head(boundary, name), value.encode("utf-8", "replace"), b"\r\n"]
    for number, (name, picture) in enumerate(pictures):
        file = f'; filename="{number}.{EXTENSION[picture.type]}"\r\nContent-Type: {MIME[picture.type]}'
        pieces += [_head(boundary, name, file), picture.data, b"\r\n"]
    pieces.append(f"--{boundary}--\r\n".encode())
    return f"multipart/form-data; boundary={boundary}", b"".join(pieces)


def _head(boundary: str, name: str, more: str = "") -> bytes:
    escaped = name.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")  # WHATWG HTML, 4.10.21.8
    return f'--{boundary}\r\nContent-Disposition: form-data; name="{escaped}"{more}\r\n\r\n'.encode()
