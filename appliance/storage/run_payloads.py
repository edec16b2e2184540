"""Run payloads: what of an event is too long for its line is kept beside it, under the hash of its bytes. Pure."""

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from appliance.protocol.canonical import canonical_json, sha256_hex

INLINE_BYTES = 16_384  # a line that people can still read; most requests of a short run

_MAY_BE_LONG = ("request", "response", "messages", "tools", "arguments", "result", "tool_calls")  # what was said stays


def move_out(fields: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The event with long fields replaced by an entry in `blobs` (field -> hash and size), and their bytes by hash."""
    kept = dict(fields)
    places: dict[str, dict[str, object]] = {}
    payloads: dict[str, bytes] = {}
    for name in _MAY_BE_LONG:
        if name not in kept:
            continue
        data = canonical_json(kept[name]).encode("ascii")
        if len(data) > INLINE_BYTES:
            digest = sha256_hex(data)
            payloads[digest] = data
            places[name] = {"sha256": digest, "bytes": len(data)}
            del kept[name]
    return ({**kept, "blobs": places} if places else kept), payloads


def move_in(fields: Mapping[str, Any], load: Callable[[str], bytes]) -> dict[str, Any]:
    """The event as it was. Raises ValueError where a payload is not what its hash says, and what `load` raises."""
    whole = dict(fields)
    for name, place in whole.pop("blobs", {}).items():
        data = load(place["sha256"])
        if sha256_hex(data) != place["sha256"]:
            raise ValueError(f"the stored {name} does not match its hash")
        whole[name] = json.loads(data)
    return whole


def payloads_in(lines: Iterable[bytes]) -> frozenset[str]:
    """The hashes of all that was too long for these lines. Raises LookupError, ValueError for lines of something else."""
    blobs = (json.loads(line).get("blobs", {}) for line in lines if b'"blobs":{' in line)
    return frozenset(place["sha256"] for places in blobs for place in places.values())
