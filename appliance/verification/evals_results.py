"""Results: attempts, what they come to for a case, and what got worse since another run. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from appliance.verification.report import Outcome

REPORT_SCHEMA = "appliance_evals_report.v1"
SLACK_MS = 100.0  # below this a longer time says more about the machine than about the gateway


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try of one case. `answer`: the beginning of what was said. Times in ms, None where there was no answer."""

    case: str
    number: int
    outcome: Outcome
    reasons: tuple[str, ...]
    ttft_ms: float | None
    total_ms: float | None
    tokens: int | None
    model: str | None
    answer: str


@dataclass(frozen=True, slots=True)
class Standing:
    """What the attempts of a case come to. `pass_rate`: of those not skipped, 0..1; None: all were. Times: medians."""

    outcome: Outcome
    pass_rate: float | None
    ttft_ms: float | None
    total_ms: float | None


@dataclass(frozen=True, slots=True)
class Worse:
    """One thing of one case that got worse, `before` and `now` in the unit that `what` names."""

    case: str
    what: str
    before: float | None
    now: float | None

    def __str__(self) -> str:
        return f"{self.case}: {self.what} was {_shown(self.before)}, is {_shown(self.now)}"


def sum_up(attempts: Sequence[Attempt]) -> Standing:
    """A case is OK if no attempt failed and at least one was good."""
    tried = [attempt for attempt in attempts if attempt.outcome != "SKIP"]
    if not tried:
        return Standing("SKIP", None, None, None)
    good = sum(attempt.outcome == "OK" for attempt in tried)
    return Standing(
        outcome="OK" if good == len(tried) else "FAIL",
        pass_rate=round(good / len(tried), 4),
        ttft_ms=_median(attempt.ttft_ms for attempt in tried),
        total_ms=_median(attempt.total_ms for attempt in tried),
    )


def find_worse(before: Mapping[str, Standing], now: Mapping[str, Standing], *, tolerance: float) -> tuple[Worse, ...]:
    """What got worse of the cases that are in both: a lower pass rate, a case not run any more, or a median time more
    than `tolerance` (0.5: half as long again) and SLACK_MS above the one before."""
    return tuple(
        worse for name, then in before.items() if name in now for worse in _compare(name, then, now[name], tolerance)
    )


def _compare(name: str, then: Standing, now: Standing, tolerance: float) -> Iterable[Worse]:
    if then.pass_rate is not None and (now.pass_rate is None or now.pass_rate < then.pass_rate):
        yield Worse(name, "pass rate", then.pass_rate, now.pass_rate)
    for what, old, new in (
        ("time to the first word in ms", then.ttft_ms, now.ttft_ms),
        ("time in ms", then.total_ms, now.total_ms),
    ):
        if old is not None and new is not None and new > old * (1 + tolerance) + SLACK_MS:
            yield Worse(name, what, old, new)


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(median(known), 1) if known else None


def _shown(value: float | None) -> str:
    return "not run" if value is None else f"{value:g}"
