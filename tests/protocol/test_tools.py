"""Tools on the wire: the hash is the contract's, and calls are read strictly."""

import hashlib
import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.protocol.errors import InvalidRequest
from appliance.protocol.strictjson import parse_object
from appliance.protocol.tools import ToolCall, parse_arguments, parse_call, request_hash


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, "af9575d59fcd216d806426a07271a738a48073b2e06385251be99ca2847f57d7"),
        ({"text": "a"}, "0869d184303c81a6924d5424320a0ba3fa28c1797634b345a8d5d25ef6d3912d"),
        ({"text": "é☃"}, "3ab521bda6d4ba6bb1e52021eee53b79f52a082bdfab54f94917452d3cc471df"),
    ],
)
def test_the_contracts_vectors(arguments: dict[str, Any], expected: str) -> None:
    assert request_hash("noop", "1", arguments) == expected


def reference(value: Any) -> str:
    """Canonical JSON written out by hand."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, str):
        return '"' + "".join(map(escaped, value)) + '"'
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, list):
        return "[" + ",".join(map(reference, value)) + "]"
    pairs = sorted(value.items(), key=lambda pair: [ord(character) for character in pair[0]])
    return "{" + ",".join(f"{reference(key)}:{reference(item)}" for key, item in pairs) + "}"


def escaped(character: str) -> str:
    short = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\b": "\\b", "\f": "\\f"}
    if character in short:
        return short[character]
    if " " <= character <= "~":
        return character
    units = character.encode("utf-16-be")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))


json_values: Any = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
arguments_of_any_kind = st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), json_values)


@settings(max_examples=3000, deadline=None)
@given(arguments_of_any_kind)
def test_the_hash_is_that_of_a_reference_written_by_hand(arguments: dict[str, Any]) -> None:
    text = reference({"tool": "t", "version": "2", "arguments": arguments})
    assert request_hash("t", "2", arguments) == hashlib.sha256(text.encode("ascii")).hexdigest()


@settings(max_examples=500, deadline=None)
@given(arguments_of_any_kind)
def test_the_hash_survives_the_wire(arguments: dict[str, Any]) -> None:
    received = parse_object(json.dumps(arguments, ensure_ascii=False).encode())
    assert request_hash("t", "1", received) == request_hash("t", "1", arguments)


def test_numbers_are_as_they_were_written() -> None:
    one, same = request_hash("t", "1", {"n": 1}), request_hash("t", "1", {"n": 1.0})
    assert one != same
    assert math.isclose(1, 1.0)


@pytest.mark.parametrize(
    ("body", "arguments"),
    [
        ({}, {}),
        ({"text": "a"}, {"text": "a"}),
        ({"arguments": {"text": "a"}}, {"text": "a"}),
        ({"arguments": {}}, {}),
        ({"arguments": 5, "text": "a"}, {"arguments": 5, "text": "a"}),
    ],
)
def test_arguments_come_wrapped_or_bare(body: dict[str, Any], arguments: dict[str, Any]) -> None:
    assert parse_arguments(body) == arguments


def test_a_call_is_a_name_and_arguments() -> None:
    assert parse_call({"name": "noop"}) == ToolCall("noop", {})
    assert parse_call({"name": "noop", "arguments": {"text": "a"}}) == ToolCall("noop", {"text": "a"})


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "name"),
        ({"name": ""}, "name"),
        ({"name": 5}, "name"),
        ({"name": "noop", "arguments": []}, "arguments"),
        ({"name": "noop", "arguments": None}, "arguments"),
        ({"name": "noop", "argument": {}}, "argument"),
    ],
)
def test_what_is_no_call_is_refused_by_name(body: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse_call(body)
    assert refused.value.param == param


def test_wrapped_arguments_must_be_an_object() -> None:
    with pytest.raises(InvalidRequest):
        parse_arguments({"arguments": "text"})
