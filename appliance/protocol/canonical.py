"""Canonical JSON: the one way in which JSON is hashed or stored; compact JSON: the one way in which it is sent."""

import hashlib
import json

# Made once: `json.dumps` with arguments makes one for every call, which is a third of the cost of a small object.
_ESCAPED, _PLAIN, _COMPACT_ESCAPED, _COMPACT = (
    json.JSONEncoder(ensure_ascii=escape, separators=(",", ":"), sort_keys=sort, allow_nan=False)
    for sort in (True, False)
    for escape in (True, False)
)


def canonical_json(value: object, *, escape_non_ascii: bool = True) -> str:
    """Write compact JSON with the keys of every level sorted by code point, separators `,` and `:`.

    Numbers are written as Python's `json` writes them. Raises ValueError for NaN and infinities.
    """
    return (_ESCAPED if escape_non_ascii else _PLAIN).encode(value)


def compact_json(value: object) -> bytes:
    """Write JSON for the wire: compact, UTF-8, keys in their order. Raises ValueError for NaN and infinities.

    Half a surrogate pair, which models do write when an emoji is cut, has no UTF-8: such a text is written escaped.
    """
    try:
        return _COMPACT.encode(value).encode("utf-8")
    except UnicodeEncodeError:
        return _COMPACT_ESCAPED.encode(value).encode("ascii")


def sha256_hex(data: bytes) -> str:
    """Hash bytes: 64 lowercase hex digits."""
    return hashlib.sha256(data).hexdigest()
