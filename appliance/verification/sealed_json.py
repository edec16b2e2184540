"""Sealed JSON: a document that holds its own digest and has one spelling, so that any changed byte shows."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

SEAL = "sha256"  # the field: of the document's bytes as they would be without it
MAX_BYTES = 64 * 1024 * 1024


class Damaged(ValueError):
    """A document that is not what was written; the message names the first difference."""


def spell(document: Mapping[str, Any]) -> bytes:
    """The one spelling of a document: keys sorted, indented by one, ASCII, a newline at the end."""
    return (json.dumps(document, indent=1, sort_keys=True, allow_nan=False) + "\n").encode("ascii")


def seal(document: Mapping[str, Any]) -> bytes:
    """The document with its seal, spelled."""
    return spell({**document, SEAL: digest(spell(document))})


def read_sealed(file: Path) -> dict[str, Any]:
    """The document, its seal included. Raises Damaged, OSError."""
    with file.open("rb") as read:
        data = read.read(MAX_BYTES + 1)
    return parse_sealed(data, file.name)


def parse_sealed(data: bytes, name: str) -> dict[str, Any]:
    """The same from bytes. Raises Damaged."""
    if len(data) > MAX_BYTES:
        raise Damaged(f"{name}: more than {MAX_BYTES} bytes")
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{name}: no JSON: {error}") from None
    if not isinstance(document, dict) or not isinstance(document.get(SEAL), str):
        raise Damaged(f"{name}: it has no field {SEAL!r} at its top")
    content = {key: value for key, value in document.items() if key != SEAL}
    try:
        spelled, stated = spell(document), digest(spell(content))
    except (ValueError, RecursionError) as error:  # a number that JSON has no word for
        raise Damaged(f"{name}: no JSON: {error}") from None
    if stated != document[SEAL]:
        raise Damaged(f"{name}: its content does not have the digest that it states, {document[SEAL][:64]!r}")
    if spelled != data:
        raise Damaged(f"{name}: byte {_first_difference(data, spelled)} is not as it was written")
    return document


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def digest_of_file(file: Path) -> str:
    with file.open("rb") as read:
        return hashlib.file_digest(read, "sha256").hexdigest()


def differences(before: Any, after: Any, place: str = "") -> Iterator[str]:
    """Where two values differ, in the order of their keys; rows of lists that have names are told by them."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in sorted(before.keys() | after.keys()):
            yield from _compare(before.get(key, ...), after.get(key, ...), f"{place}.{key}" if place else str(key))
        return
    if isinstance(before, list) and isinstance(after, list):
        old, new = _by_name(before), _by_name(after)
        for key in [*old, *(key for key in new if key not in old)]:
            yield from _compare(old.get(key, ...), new.get(key, ...), f"{place}[{key}]")
        return
    if before != after or type(before) is not type(after):
        yield f"{place}: {_shown(before)} -> {_shown(after)}"


def _compare(before: Any, after: Any, place: str) -> Iterator[str]:
    if before is ...:
        yield f"{place}: added: {_shown(after)}"
    elif after is ...:
        yield f"{place}: removed: {_shown(before)}"
    else:
        yield from differences(before, after, place)


def _by_name(rows: list[Any]) -> dict[str, Any]:
    names = [str(row["name"]) if isinstance(row, dict) and "name" in row else "" for row in rows]
    if "" in names or len(set(names)) != len(names):
        names = [str(index) for index in range(len(rows))]
    return dict(zip(names, rows, strict=True))


def _shown(value: Any) -> str:
    text = json.dumps(value, sort_keys=True)
    return text if len(text) <= 120 else text[:117] + "..."


def _first_difference(one: bytes, other: bytes) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((index for index, (a, b) in pairs if a != b), min(len(one), len(other)))
