"""Files of cases and schemas: what cannot be used is refused with its place before anything is asked."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from appliance.verification.evals_cases import BadCases, parse_cases
from appliance.verification.evals_schema import BadSchema, check_schema, find_mismatch

GOOD = {"id": "a", "kind": "chat", "request": {}, "expect": {"exact": "x"}}


def file_of(*cases: Any, **fields: Any) -> bytes:
    return json.dumps({"schema": "appliance_evals.v1", "cases": list(cases), **fields}).encode()


def deep(levels: int) -> Any:
    schema: Any = {}
    for _ in range(levels):
        schema = {"items": schema}
    return schema


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"{", "it is no JSON"),
        (b"[" * 100_000, "it is no JSON"),
        (b"\xff", "it is no JSON"),
        (b"[]", "the file: is an object"),
        (b'{"schema":"x","schema":"x"}', "'schema' is there twice"),
        (b'{"schema": NaN}', "NaN is no JSON number"),
        (b'{"schema":"x"}', "schema: is 'x'"),
        (file_of(), "cases: is a list of 1 to"),
        (file_of(GOOD, more=1), "the file.more: is unknown"),
        (file_of(1), "cases[0]: is an object"),
        (file_of({**GOOD, "expects": {}}), "cases[0].expects: is unknown: did you mean expect?"),
        (file_of({**GOOD, "id": "a b"}), "cases[0].id: is a name"),
        (file_of(GOOD, GOOD), "cases[1].id: 'a' is there twice"),
        (file_of({**GOOD, "kind": "image"}), "cases[0].kind: is 'image'; write chat, agent, rerank"),
        (file_of({**GOOD, "kind": []}), "cases[0].kind: is []"),
        (file_of({**GOOD, "request": []}), "cases[0].request: is the body that /v1/chat/completions is sent"),
        (file_of({**GOOD, "request": {"stream": True}}), "cases[0].request.stream: stands beside"),
        (file_of({**GOOD, "stream": 1}), "cases[0].stream"),
        (file_of({**GOOD, "kind": "agent", "stream": True}), "cases[0].stream"),
        (file_of({**GOOD, "budget_ms": {"ttft": 0}}), "cases[0].budget_ms.ttft: is a number"),
        (file_of({**GOOD, "budget_ms": {"total": True}}), "cases[0].budget_ms.total: is a number"),
        (file_of({**GOOD, "budget_ms": {"ttft": 9}, "stream": False}), "cases[0].budget_ms.ttft: needs a stream"),
        (file_of({**GOOD, "expect": {}}), "cases[0].expect: asks for nothing"),
        (file_of({**GOOD, "expect": {"exakt": ""}}), "cases[0].expect.exakt: is unknown: did you mean exact?"),
        (file_of({**GOOD, "expect": {"contains": "a"}}), "cases[0].expect.contains: is a list"),
        (file_of({**GOOD, "expect": {"contains": [""]}}), "cases[0].expect.contains: is a list"),
        (file_of({**GOOD, "expect": {"regex": "("}}), "cases[0].expect.regex: is no regular expression"),
        (file_of({**GOOD, "expect": {"max_tokens": -1}}), "cases[0].expect.max_tokens: is a number from 0"),
        (file_of({**GOOD, "expect": {"top": 1}}), "cases[0].expect.top: is unknown"),
        (file_of({**GOOD, "expect": {"tool_calls": [{}]}}), "cases[0].expect.tool_calls[0].name"),
        (file_of({**GOOD, "expect": {"tool_calls": [{"name": "a", "arguments": ""}]}}), "tool_calls[0].arguments"),
        (
            file_of({**GOOD, "expect": {"json_schema": {"properties": {"a": {"pattern": "x"}}}}}),
            "cases[0].expect.json_schema.properties.a.pattern: is not known here",
        ),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_used_is_refused_with_place_and_reason(data: bytes, words: str) -> None:
    with pytest.raises(BadCases) as refused:
        parse_cases(data)
    assert words in str(refused.value)


def test_a_case_may_ask_for_time_alone() -> None:
    (case,) = parse_cases(file_of({**GOOD, "expect": {}, "budget_ms": {"total": 5}}))
    assert case.budget.total_ms == 5


@given(st.binary(max_size=200) | st.recursive(st.none() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)).map(lambda value: json.dumps(value).encode()))  # fmt: skip
def test_whatever_a_file_holds_it_is_read_or_refused(data: bytes) -> None:
    with pytest.raises(BadCases):
        parse_cases(data)


@pytest.mark.parametrize(
    ("schema", "where"),
    [
        ([], ""),
        ({"type": "text"}, "type"),
        ({"type": []}, "type"),
        ({"type": [{}]}, "type"),
        ({"enum": []}, "enum"),
        ({"required": "a"}, "required"),
        ({"properties": []}, "properties"),
        ({"minimum": "1"}, "minimum"),
        ({"items": {"maximum": True}}, "items.maximum"),
        ({"additionalProperties": {"oneOf": []}}, "additionalProperties.oneOf"),
    ],
)
def test_a_schema_beyond_the_known_part_is_refused(schema: object, where: str) -> None:
    with pytest.raises(BadSchema) as refused:
        check_schema(schema)
    assert refused.value.where == where


def test_a_schema_that_is_nested_too_deep_is_refused() -> None:
    check_schema(deep(32))
    with pytest.raises(BadSchema, match="nested"):
        check_schema(deep(33))


TYPES = st.sampled_from(["object", "array", "string", "boolean", "null", "number", "integer"])
NAMES = st.sampled_from(["a", "b", "c"])
SCALARS = st.none() | st.booleans() | st.integers(-3, 3) | st.floats(-3, 3) | NAMES
VALUES = st.recursive(SCALARS, lambda x: st.lists(x, max_size=3) | st.dictionaries(NAMES, x, max_size=3), max_leaves=8)


def schemas() -> st.SearchStrategy[Any]:
    def extend(below: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        return st.fixed_dictionaries(
            {},
            optional={
                "type": TYPES | st.lists(TYPES, min_size=1, max_size=2, unique=True),
                "enum": st.lists(VALUES, min_size=1, max_size=2),
                "required": st.lists(NAMES, max_size=2, unique=True),
                "properties": st.dictionaries(NAMES, below, max_size=2),
                "additionalProperties": st.booleans() | below,
                "items": below,
                "minimum": st.integers(-2, 2),
                "maximum": st.integers(-2, 2),
            },
        )

    return st.recursive(st.just({}), extend, max_leaves=5)


@given(schemas(), VALUES)
def test_the_known_part_is_judged_as_json_schema_judges_it(schema: Any, value: Any) -> None:
    check_schema(schema)
    assert (find_mismatch(schema, value) is None) == Draft202012Validator(schema).is_valid(value)


@pytest.mark.parametrize("value", [True, [True], {"a": False}])
def test_true_is_not_one(value: Any) -> None:
    number = json.loads(json.dumps(value).replace("true", "1").replace("false", "0"))
    assert find_mismatch({"enum": [number]}, value) is not None
    assert find_mismatch({"enum": [value]}, number) is not None
