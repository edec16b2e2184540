"""Judging: what an answer lacks of what was expected. Pure: the same answer has the same verdict."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn

from appliance.verification.evals_asking import Seen, ToolCall
from appliance.verification.evals_cases import Budget, Case
from appliance.verification.evals_schema import find_mismatch, same_json
from appliance.verification.http import one_line

SHOWN_CHARS = 120


def judge(case: Case, seen: Seen, default: Budget) -> tuple[str, ...]:
    """Every reason for which this answer is not good, in words; none if it is. `default`: where the case has no budget."""
    return (*_judge_text(case.expect, seen), *_judge_kind(case, seen), *_judge_times(case, seen, default))


def _judge_text(expect: Mapping[str, Any], seen: Seen) -> Iterator[str]:
    text = seen.text
    if "exact" in expect and text != expect["exact"]:
        yield f"it is {_show(text)}, not {_show(expect['exact'])}"
    for wanted in expect.get("contains", ()):
        if wanted not in text:
            yield f"without {_show(wanted)}: {_show(text)}"
    for unwanted in expect.get("not_contains", ()):
        if unwanted in text:
            yield f"with {_show(unwanted)}"
    if "regex" in expect and re.search(expect["regex"], text) is None:
        yield f"nothing like {_show(expect['regex'])}: {_show(text)}"
    if "json_schema" in expect:
        yield from _judge_json(expect["json_schema"], text)
    if "tool_calls" in expect:
        yield from _judge_calls(expect["tool_calls"], seen.calls)


def _judge_json(schema: Mapping[str, Any], text: str) -> Iterator[str]:
    try:
        value = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        yield f"it is no JSON: {_show(text)}"
        return
    if (mismatch := find_mismatch(schema, value)) is not None:
        yield one_line(mismatch)


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON number")


def _judge_calls(expected: Sequence[Mapping[str, Any]], calls: Sequence[ToolCall]) -> Iterator[str]:
    names, wanted = [call.name for call in calls], [call["name"] for call in expected]
    if names != wanted:
        yield one_line(f"it calls {', '.join(names) or 'nothing'}, not {', '.join(wanted) or 'nothing'}")
        return
    for call, one in zip(calls, expected, strict=True):
        subset = one.get("arguments")
        if subset is not None and not _holds(call.arguments, subset):
            yield f"{call.name} is called with {_show(call.arguments)}, without {_show(subset)}"


def _holds(value: object, subset: object) -> bool:
    """Objects must hold every member of `subset`, at any depth; all else must be the same."""
    if isinstance(subset, dict):
        return isinstance(value, dict) and all(name in value and _holds(value[name], subset[name]) for name in subset)
    return same_json(value, subset)


def _judge_kind(case: Case, seen: Seen) -> Iterator[str]:
    expect = case.expect
    if case.kind == "agent":
        yield from _judge_outcome(expect, seen)
    if "finish_reason" in expect and seen.finish_reason != expect["finish_reason"]:
        yield f"finish_reason is {seen.finish_reason!r}, not {expect['finish_reason']!r}"
    if "top" in expect and seen.order[:1] != (expect["top"],):
        yield f"the first document is {seen.order[0] if seen.order else 'none'}, not {expect['top']}"
    if "order" in expect and list(seen.order[: len(expect["order"])]) != expect["order"]:
        yield f"the order is {list(seen.order)}, not {expect['order']}"
    for name, spent in (("max_turns", seen.turns), ("max_tool_calls", len(seen.calls)), ("max_tokens", seen.tokens)):
        if name in expect and (spent is None or spent > expect[name]):
            yield f"{name} {expect[name]}: " + ("it does not say" if spent is None else f"it took {spent}")


def _judge_outcome(expect: Mapping[str, Any], seen: Seen) -> Iterator[str]:
    wanted = expect.get("ok", "error" not in expect)
    if seen.ok is not wanted:
        yield f"the run {'ended well' if seen.ok else f'failed: {seen.error}'}"
    if "error" in expect and expect["error"] not in (seen.error or ""):
        yield f"its error is {_show(seen.error or '')}, not {_show(expect['error'])}"


def _judge_times(case: Case, seen: Seen, default: Budget) -> Iterator[str]:
    total_ms = case.budget.total_ms or default.total_ms
    if total_ms is not None and seen.total_ms > total_ms:
        yield f"it took {seen.total_ms:g} ms, more than {total_ms:g}"
    ttft_ms = case.budget.ttft_ms or default.ttft_ms
    if case.stream and ttft_ms is not None and (seen.ttft_ms is None or seen.ttft_ms > ttft_ms):
        took = "never came" if seen.ttft_ms is None else f"took {seen.ttft_ms:g} ms, more than {ttft_ms:g}"
        yield f"the first word {took}"


def _show(value: object) -> str:
    text = one_line(json.dumps(value, ensure_ascii=False))
    return text if len(text) <= SHOWN_CHARS else f"{text[:SHOWN_CHARS]}..."
