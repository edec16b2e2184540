"""Strict JSON: what is refused, and that the refusal says where."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.protocol.errors import InvalidRequest
from appliance.protocol.strictjson import MAX_NESTING, parse_object

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**64), 2**64)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(), children, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.text(), json_values, max_size=5), st.booleans())
def test_any_object_that_json_can_write_reads_back_the_same(value: dict[str, object], escape: bool) -> None:
    assert parse_object(json.dumps(value, ensure_ascii=escape).encode()) == value


@given(st.binary(max_size=64))
def test_any_bytes_are_an_object_or_a_clear_refusal(body: bytes) -> None:
    refusal = None
    try:
        assert isinstance(parse_object(body), dict)
    except InvalidRequest as error:
        refusal = error
    if refusal is not None:
        assert refusal.code == "invalid_json"
        assert refusal.message.encode()  # no lone surrogate reaches the answer


@pytest.mark.parametrize(
    ("body", "where"),
    [
        (b"", "line 1 column 1"),
        (b"[1]", "one JSON object"),
        (b'"x"', "one JSON object"),
        (b'{"a":1} x', "line 1 column 9"),
        (b'{"a":1,}', "line 1"),
        (b"{'a':1}", "line 1 column 2"),
        (b'{"a":\xff}', "byte 5"),
        (b"\xef\xbb\xbf{}", "BOM"),
        (b'{"a":{"b":1,"b":2}}', '"b" occurs twice in the object at /a'),
        (b'{"a":1,"a":1}', '"a" occurs twice in the object at the top'),
        (b'{"a":[{"x/y":{"k":1,"k":2}}]}', "at /a/0/x~1y"),
        (b'{"a":[1,NaN]}', "NaN at /a/1"),
        (b'{"a":-Infinity}', "-Infinity at /a"),
        (b'{"a":1e400}', "1e400 at /a"),
        (b'{"a":' + b"9" * 309 + b"}", "at /a"),
        (b'{"a":' + b"9" * 5000 + b"}", "at /a"),
        (b'{"a":"\\ud800"}', "lone surrogate in the string at /a"),
        (b'{"\\udfff":1}', "lone surrogate"),
        (b'{"a":"tab\tinside"}', "control character"),
    ],
)
def test_a_body_that_is_not_strict_is_refused_with_what_and_where(body: bytes, where: str) -> None:
    with pytest.raises(InvalidRequest, match="not valid JSON") as refused:
        parse_object(body)
    assert where in refused.value.message


def test_nesting_is_counted_in_containers_and_not_in_brackets_of_strings() -> None:
    def nested(depth: int) -> bytes:
        return b'{"a":' * (depth - 1) + b"[]" + b"}" * (depth - 1)

    assert parse_object(nested(MAX_NESTING))
    assert parse_object(json.dumps({"a": "[" * 1000}).encode())
    with pytest.raises(InvalidRequest, match="nested deeper"):
        parse_object(nested(MAX_NESTING + 1))
    with pytest.raises(InvalidRequest, match="nested deeper"):
        parse_object(b'{"a":' + b"[" * 200_000)


def test_surrogate_pairs_and_the_largest_double_are_fine() -> None:
    assert parse_object(b'{"a":"\\ud83d\\ude00"}') == {"a": "\N{GRINNING FACE}"}
    largest = parse_object(b'{"a":1.7976931348623157e308, "b":' + b"1" + b"0" * 308 + b"}")
    assert all(math.isfinite(value) for value in largest.values())


@given(
    before=st.integers(0, 700), digits=st.sampled_from([1, 2, 307, 308, 309, 310, 400, 700]), after=st.integers(0, 700)
)
def test_integer_that_no_double_holds_is_found_wherever_it_stands(before: int, digits: int, after: int) -> None:
    body = b'{"a":"%b","n":%b,"z":"%b"}' % (b"x" * before, b"9" * digits, b"7" * min(after, 300))
    if digits < 309:
        assert parse_object(body)["n"] == int("9" * digits)
    else:
        with pytest.raises(InvalidRequest, match="a double can hold"):
            parse_object(body)
