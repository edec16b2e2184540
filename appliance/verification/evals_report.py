"""The report of a run: what is written of it, and what a person is told."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from appliance.verification.evals_cases import Budget, Case
from appliance.verification.evals_files import append_history, histories, read_history, stamp_of, write_report
from appliance.verification.evals_results import REPORT_SCHEMA, Attempt, Standing, Worse, find_worse, sum_up
from appliance.verification.report import NAME_WIDTH

_HISTORIC = ("outcome", "pass_rate", "ttft_ms", "total_ms")


@dataclass(frozen=True, slots=True)
class Golden:
    """The file of cases that were asked."""

    path: Path
    sha256: str
    cases: tuple[Case, ...]


@dataclass(frozen=True, slots=True)
class Baseline:
    """An earlier report to compare with. `tolerance_percent`: how much longer a median time may be."""

    path: Path
    standings: Mapping[str, Standing]
    tolerance_percent: float


@dataclass(frozen=True, slots=True)
class Terms:
    """On what terms the cases were asked. `gateway`: its address, or `started` for one of our own."""

    gateway: str
    required: bool
    repeat: int
    budget: Budget

    def facts(self) -> dict[str, Any]:
        """For a report, and to tell one run from another."""
        return {
            "gateway": self.gateway,
            "required": self.required,
            "repeat": self.repeat,
            "budget_ms": {"ttft": self.budget.ttft_ms, "total": self.budget.total_ms},
        }


@dataclass(frozen=True, slots=True)
class Run:
    """One whole run. Times are Unix seconds; `ready`: what `/readyz` said before."""

    golden: Golden
    terms: Terms
    ready: Mapping[str, Any]
    attempts: Mapping[str, tuple[Attempt, ...]]
    started_at: float
    ended_at: float
    baseline: Baseline | None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of it, and where it is written."""

    ok: bool
    path: Path
    lines: tuple[str, ...]


def keep_run(directory: Path, run: Run) -> Verdict:
    """Write the report and note the run in the history. Raises OSError."""
    standings = {case.id: sum_up(run.attempts[case.id]) for case in run.golden.cases}
    outcomes = [standing.outcome for standing in standings.values()]
    worse = _find_worse(run.baseline, standings)
    ok = "FAIL" not in outcomes and not worse
    past = histories(read_history(directory))
    totals = {outcome: outcomes.count(outcome) for outcome in ("OK", "SKIP", "FAIL")}
    report = {
        "schema": REPORT_SCHEMA,
        "ok": ok,
        "started_at": stamp_of(run.started_at),
        "ended_at": stamp_of(run.ended_at),
        "golden": {"path": str(run.golden.path), "sha256": run.golden.sha256},
        **run.terms.facts(),
        "readyz": dict(run.ready),
        "totals": totals,
        "baseline": _compared(run.baseline, standings, worse),
        "cases": [
            {
                "id": case.id,
                "kind": case.kind,
                **asdict(standings[case.id]),
                "attempts": [asdict(attempt) for attempt in run.attempts[case.id]],
                "history": past.get(case.id, []),
            }
            for case in run.golden.cases
        ],
    }
    path = write_report(directory, stamp_of(run.started_at), report)
    append_history(directory, _history_line(report, path))
    said = f"{totals['OK']} ok, {totals['SKIP']} skipped, {totals['FAIL']} failed"
    compared = f", {len(worse)} worse than the baseline" if run.baseline else ""
    gone = [f"gone: {name} is in the baseline alone" for name in _gone(run.baseline, standings)]
    return Verdict(ok, path, (*(f"worse: {one}" for one in worse), *gone, f"{said}{compared}: {path}"))


def case_line(case: Case, made: Sequence[Attempt]) -> str:
    """One line, for a person: the first reason, and the median times."""
    standing = sum_up(made)
    parts = [f"{standing.pass_rate:.0%} good" if standing.pass_rate not in (None, 0.0, 1.0) else ""]
    parts += [attempt.reasons[0] for attempt in made if attempt.outcome == standing.outcome and attempt.reasons][:1]
    if standing.total_ms is not None:
        parts.append(f"{standing.total_ms:g} ms")
    if standing.ttft_ms is not None:
        parts.append(f"first word {standing.ttft_ms:g} ms")
    return f"{case.id:<{NAME_WIDTH}}  {standing.outcome:<4}  {'; '.join(filter(None, parts))}".rstrip()


def read_standings(data: bytes) -> dict[str, Standing]:
    """The standings of a report of ours. Raises ValueError saying that it is none."""
    try:
        report = json.loads(data)
        if report["schema"] != REPORT_SCHEMA:
            raise ValueError(f"its schema is {report['schema']!r}, not {REPORT_SCHEMA!r}")
        return {
            case["id"]: Standing(case["outcome"], *(_number(case[name]) for name in _HISTORIC[1:]))
            for case in report["cases"]
        }
    except (LookupError, TypeError, RecursionError) as error:
        raise ValueError(f"it is no report of the evals: {error!r}") from None


def _find_worse(baseline: Baseline | None, now: Mapping[str, Standing]) -> tuple[Worse, ...]:
    if baseline is None:
        return ()
    return find_worse(baseline.standings, now, tolerance=baseline.tolerance_percent / 100)


def _gone(baseline: Baseline | None, now: Mapping[str, Standing]) -> list[str]:
    return sorted(baseline.standings.keys() - now.keys()) if baseline else []


def _compared(
    baseline: Baseline | None, now: Mapping[str, Standing], worse: Sequence[Worse]
) -> Mapping[str, Any] | None:
    if baseline is None:
        return None
    return {
        "path": str(baseline.path),
        "latency_tolerance_percent": baseline.tolerance_percent,
        "worse": [asdict(one) for one in worse],
        "gone": _gone(baseline, now),
        "new": sorted(now.keys() - baseline.standings.keys()),
    }


def _history_line(report: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    return {
        "at": report["started_at"],
        "report": path.name,
        "golden_sha256": report["golden"]["sha256"],
        "gateway": report["gateway"],
        "ok": report["ok"],
        "cases": {case["id"]: {name: case[name] for name in _HISTORIC} for case in report["cases"]},
    }


def _number(value: object) -> float | None:
    if value is not None and (not isinstance(value, int | float) or isinstance(value, bool)):
        raise TypeError(f"{value!r} is no number")
    return value
