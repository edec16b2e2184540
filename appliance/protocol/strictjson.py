"""Strict JSON input: one object, UTF-8, no doubled keys, no numbers a double cannot hold; the error says where."""

import json
import math
import re
from collections.abc import Iterator
from typing import Any

from appliance.protocol.errors import InvalidRequest

MAX_NESTING = 64

_LONG_DIGITS = 309  # 1.8e308, the largest double, has so many
_FEW = 20
_LONG_INTEGER = re.compile(rb"[0-9]{%d}" % _LONG_DIGITS)
_SURROGATE_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")


class _Duplicated(dict[str, Any]):
    """An object that names one key twice; it stands in the parsed value until its place is known."""

    def __init__(self, pairs: list[tuple[str, Any]], key: str) -> None:
        super().__init__(pairs)
        self.key = key


class _BadNumber:
    """A number that JSON or a double does not have, as it was written."""

    def __init__(self, text: str) -> None:
        self.text = text


class _Decoder:
    """Collects what is wrong while the C scanner parses, which tells hooks no position."""

    def __init__(self) -> None:
        self.suspicious = False

    def pairs(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) == len(pairs):
            return found
        self.suspicious = True
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                return _Duplicated(pairs, key)
            seen.add(key)
        raise AssertionError("unreachable: fewer keys than pairs means that one is doubled")

    def constant(self, text: str) -> object:
        self.suspicious = True
        return _BadNumber(text)

    def number(self, text: str) -> object:
        value = float(text)
        return value if math.isfinite(value) else self.constant(text)

    def integer(self, text: str) -> object:
        return int(text) if math.isfinite(float(text)) else self.constant(text)


class _Doubtful(Exception):
    """The quick parser met what `_Decoder` has to look at."""


def _plain_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _Doubtful
    return found


def _plain_number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _Doubtful
    return value


def _refuse(_constant: str) -> object:
    raise _Doubtful


# Made once, and so without a memory of what was wrong and where: good bodies, which nearly all are, need none.
_QUICK = json.JSONDecoder(object_pairs_hook=_plain_pairs, parse_constant=_refuse, parse_float=_plain_number)


def parse_object(body: bytes) -> dict[str, Any]:
    """Parse a request body. Raises InvalidRequest (code `invalid_json`) with what is wrong and where."""
    text = _decode(body)
    if not _has_long_integer(body) and not _has_surrogate_escape(body):
        try:
            value, end = _QUICK.raw_decode(text)
            if end == len(text) and type(value) is dict and not _is_deep(body, value):
                return value
        except (_Doubtful, json.JSONDecodeError, RecursionError):
            pass  # whoever looks closely finds the words for it
    return _parse_doubtful(body, text)


def _parse_doubtful(body: bytes, text: str) -> dict[str, Any]:
    decoder = _Decoder()
    try:
        value = json.loads(
            text,
            object_pairs_hook=decoder.pairs,
            parse_constant=decoder.constant,
            parse_float=decoder.number,
            parse_int=decoder.integer if _has_long_integer(body) else None,
        )
    except json.JSONDecodeError as error:
        raise _invalid(f"{error.msg}: line {error.lineno} column {error.colno}") from None
    except RecursionError:
        raise _too_deep() from None
    if _is_deep(body, value):
        raise _too_deep()
    if decoder.suspicious or _has_surrogate_escape(body):
        _raise_at_first_problem(value)
    if not isinstance(value, dict):
        raise _invalid("the body must be one JSON object, {...}")
    return value


def _has_long_integer(body: bytes) -> bool:
    """Whether so many digits stand in a row. One of them then stands where every so-manieth byte is looked at, with
    some others on one side at least: in a long prompt that is found out forty times as fast as by looking at all."""
    reach = _LONG_DIGITS - 1
    return len(body) > reach and any(
        48 <= body[at] <= 57
        and (body[at : at + _FEW].isdigit() or body[at - _FEW + 1 : at + 1].isdigit())
        and _LONG_INTEGER.search(body, at - reach, at + reach + 1) is not None
        for at in range(reach, len(body), _LONG_DIGITS)
    )


def _has_surrogate_escape(body: bytes) -> bool:
    return b"\\u" in body and _SURROGATE_ESCAPE.search(body) is not None


def _is_deep(body: bytes, value: object) -> bool:
    return body.count(b"[") + body.count(b"{") > MAX_NESTING and nesting(value) > MAX_NESTING


def _decode(body: bytes) -> str:
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _invalid(f"not UTF-8 at byte {error.start}") from None


def _invalid(what: str) -> InvalidRequest:
    return InvalidRequest(f"The request body is not valid JSON: {what}.", code="invalid_json")


def _too_deep() -> InvalidRequest:
    return _invalid(f"nested deeper than {MAX_NESTING} levels")


def nesting(value: object) -> int:
    """How deep containers nest, without recursion: the input is hostile."""
    deepest = 0
    stack: list[tuple[object, int]] = [(value, 1)]
    while stack:
        item, depth = stack.pop()
        if isinstance(item, dict | list):
            deepest = max(deepest, depth)
            children = item.values() if isinstance(item, dict) else item
            stack += [(child, depth + 1) for child in children if isinstance(child, dict | list)]
    return deepest


def _raise_at_first_problem(value: object) -> None:
    for pointer, item in _walk(value, ""):
        where = f"at {pointer}" if pointer else "at the top"
        if isinstance(item, _Duplicated):
            raise _invalid(f'the key "{_printable(item.key)}" occurs twice in the object {where}')
        if isinstance(item, _BadNumber):
            raise _invalid(f"the number {item.text[:32]} {where} is not one that a double can hold")
        if isinstance(item, str) and _has_lone_surrogate(item):
            raise _invalid(f"a lone surrogate in the string {where}")


def _walk(value: object, pointer: str) -> Iterator[tuple[str, object]]:
    """Every value with its JSON pointer (RFC 6901), parents first; nesting is at most MAX_NESTING here."""
    yield pointer, value
    if isinstance(value, dict):
        for key, child in value.items():
            yield pointer + "/(a key)", key
            yield from _walk(child, f"{pointer}/{_printable(key).replace('~', '~0').replace('/', '~1')}")
    if isinstance(value, list):
        for index, child in enumerate(value):
            yield from _walk(child, f"{pointer}/{index}")


def _has_lone_surrogate(text: str) -> bool:
    return any("\ud800" <= char <= "\udfff" for char in text)


def _printable(text: str) -> str:
    return text[:64].encode("utf-8", "replace").decode("utf-8")
