"""Cases: what a gateway is asked, and what is expected of its answer, read strictly from one JSON file."""

import difflib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn, get_args

from appliance.verification.evals_schema import BadSchema, check_schema

SCHEMA = "appliance_evals.v1"
MAX_CASES = 10_000
MAX_FILE_BYTES = 50_000_000

Kind = Literal["chat", "agent", "rerank"]
PATHS: Mapping[Kind, str] = {
    "chat": "/v1/chat/completions",
    "agent": "/v1/agent/run",
    "rerank": "/v1/rerank",
}
_ID = re.compile(r"[A-Za-z0-9._-]{1,80}")


class BadCases(ValueError):
    """A file of cases that cannot be used; the message begins with the place."""


@dataclass(frozen=True, slots=True)
class Budget:
    """Longest allowed times in ms; None: the run's own. `ttft`: to the first word, of a stream alone."""

    ttft_ms: float | None = None
    total_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Case:
    """One question. `request`: the body as it is sent, but for `stream`. `expect`: checked, by kind."""

    id: str
    kind: Kind
    request: Mapping[str, Any]
    expect: Mapping[str, Any]
    stream: bool
    budget: Budget = field(default_factory=Budget)


def parse_cases(data: bytes) -> tuple[Case, ...]:
    """Raises BadCases."""
    try:
        document = json.loads(data, object_pairs_hook=_no_doubles, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise BadCases(f"it is no JSON: {error}") from None
    _only(document, "the file", {"schema", "cases"})
    if document.get("schema") != SCHEMA:
        raise BadCases(f'schema: is {document.get("schema")!r}; write "{SCHEMA}"')
    given = document.get("cases")
    if not isinstance(given, list) or not 1 <= len(given) <= MAX_CASES:
        raise BadCases(f"cases: is a list of 1 to {MAX_CASES} cases")
    cases = tuple(_case(one, f"cases[{number}]") for number, one in enumerate(given))
    seen: set[str] = set()
    for number, case in enumerate(cases):
        if case.id in seen:
            _refuse(f"cases[{number}].id", f"{case.id!r} is there twice")
        seen.add(case.id)
    return cases


def _case(given: object, where: str) -> Case:
    fields = _only(given, where, {"id", "kind", "request", "expect", "budget_ms", "stream"})
    name, kind = fields.get("id"), _kind(fields.get("kind"), f"{where}.kind")
    if not isinstance(name, str) or not _ID.fullmatch(name):
        _refuse(f"{where}.id", "is a name of up to 80 letters, digits, dots, _ and -")
    request = fields.get("request")
    if not isinstance(request, dict):
        _refuse(f"{where}.request", f"is the body that {PATHS[kind]} is sent")
    if "stream" in request:
        _refuse(f"{where}.request.stream", "stands beside the request: answers are read whole all the same")
    stream = fields.get("stream", kind == "chat")
    if not isinstance(stream, bool) or (stream and kind != "chat"):
        _refuse(f"{where}.stream", "is true or false, and true for a chat alone")
    budget = _budget(fields.get("budget_ms", {}), f"{where}.budget_ms", stream=stream)
    expect = _expect(fields.get("expect"), f"{where}.expect", kind)
    if not expect and budget == Budget():
        _refuse(f"{where}.expect", "asks for nothing, and there is no budget_ms either")
    return Case(name, kind, request, expect, stream, budget)


def _kind(given: object, where: str) -> Kind:
    for kind in get_args(Kind):
        if given == kind:
            found: Kind = kind
            return found
    raise BadCases(f"{where}: is {given!r}; write {', '.join(get_args(Kind))}")


def _budget(given: object, where: str, *, stream: bool) -> Budget:
    fields = _only(given, where, {"ttft", "total"})
    for name, value in fields.items():
        if not isinstance(value, int | float) or isinstance(value, bool) or not value > 0:
            _refuse(f"{where}.{name}", "is a number of milliseconds above 0")
    if "ttft" in fields and not stream:
        _refuse(f"{where}.ttft", "needs a stream: there is no first word in a whole answer")
    return Budget(fields.get("ttft"), fields.get("total"))


def _expect(given: object, where: str, kind: Kind) -> Mapping[str, Any]:
    known = EXPECT[kind]
    fields = _only(given, where, set(known))
    for name, value in fields.items():
        if not known[name].holds(value):
            _refuse(f"{where}.{name}", known[name].what)
    if "regex" in fields:
        _check_regex(fields["regex"], f"{where}.regex")
    if "json_schema" in fields:
        try:
            check_schema(fields["json_schema"])
        except BadSchema as bad:
            _refuse(f"{where}.json_schema" + (f".{bad.where}" if bad.where else ""), str(bad))
    for number, call in enumerate(fields.get("tool_calls", ())):
        _check_call(call, f"{where}.tool_calls[{number}]")
    return fields


def _check_regex(text: str, where: str) -> None:
    try:
        re.compile(text)
    except re.error as error:
        _refuse(where, f"is no regular expression: {error}")


def _check_call(call: object, where: str) -> None:
    fields = _only(call, where, {"name", "arguments"})
    if not isinstance(fields.get("name"), str):
        _refuse(f"{where}.name", "is the name of a tool")
    if not isinstance(fields.get("arguments", {}), dict):
        _refuse(f"{where}.arguments", "is an object: what must be among the arguments")


@dataclass(frozen=True, slots=True)
class _Rule:
    holds: Callable[[Any], bool]
    what: str


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, str) and one for one in value)


_TEXT_RULES: Mapping[str, _Rule] = {
    "exact": _Rule(_is_text, "is a text"),
    "contains": _Rule(_are_texts, "is a list of texts that are not empty"),
    "not_contains": _Rule(_are_texts, "is a list of texts that are not empty"),
    "regex": _Rule(_is_text, "is a text"),
    "json_schema": _Rule(lambda value: isinstance(value, dict), "is an object"),
    "tool_calls": _Rule(lambda value: isinstance(value, list), "is a list of calls, empty for none"),
}
_COUNT = _Rule(_is_count, "is a number from 0")
EXPECT: Mapping[Kind, Mapping[str, _Rule]] = {
    "chat": {**_TEXT_RULES, "finish_reason": _Rule(_is_text, "is a text"), "max_tokens": _COUNT},
    "agent": {
        **_TEXT_RULES,
        "ok": _Rule(lambda value: isinstance(value, bool), "is true or false"),
        "error": _Rule(_is_text, "is a text that the error contains"),
        "max_turns": _COUNT,
        "max_tool_calls": _COUNT,
        "max_tokens": _COUNT,
    },
    "rerank": {
        "top": _Rule(_is_count, "is the index of a document, from 0"),
        "order": _Rule(
            lambda value: isinstance(value, list) and bool(value) and all(map(_is_count, value)),
            "is a list of indices: how the answer begins",
        ),
    },
}


def _only(given: object, where: str, known: set[str]) -> dict[str, Any]:
    if not isinstance(given, dict):
        _refuse(where, "is an object")
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"write {', '.join(sorted(known))}"
            _refuse(f"{where}.{name[:64]}", f"is unknown: {hint}")
    return given


def _refuse(where: str, reason: str) -> NoReturn:
    raise BadCases(f"{where}: {reason}")


def _no_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        double = next(name for index, (name, _) in enumerate(pairs) if name in [key for key, _ in pairs[:index]])
        raise ValueError(f"{double!r} is there twice in one object")
    return found


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON number")
