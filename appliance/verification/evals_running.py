"""Running cases: each as often as asked, with every attempt noted before the next, and none made twice."""

from collections.abc import Callable, Mapping, Sequence

from appliance.verification.evals_asking import Asker, Seen
from appliance.verification.evals_cases import Budget, Case
from appliance.verification.evals_files import Partial
from appliance.verification.evals_judging import judge
from appliance.verification.evals_results import Attempt
from appliance.verification.http import Gateway, Unreachable
from appliance.verification.report import CheckFailedError, run_checks

MAX_ANSWER_CHARS = 2000  # of one answer in a report

Say = Callable[[Case, Sequence[Attempt]], None]


class GoneError(Exception):
    """The gateway does not answer at all: no later case can do better. What was reached is noted."""


def run_cases(
    cases: Sequence[Case], asker: Asker, budget: Budget, repeat: int, partial: Partial, say: Say
) -> Mapping[str, tuple[Attempt, ...]]:
    """All attempts by case, those of an interrupted run among them. `say` hears of every case once. Raises GoneError."""
    reached = {(attempt.case, attempt.number): attempt for attempt in partial.load()}
    made: dict[str, tuple[Attempt, ...]] = {}
    for case in cases:
        attempts = []
        for number in range(1, repeat + 1):
            attempt = reached.get((case.id, number))
            if attempt is None:
                attempt = _try(case, number, asker, budget)
                partial.note(attempt)
            attempts.append(attempt)
        made[case.id] = tuple(attempts)
        say(case, attempts)
    return made


def _try(case: Case, number: int, asker: Asker, budget: Budget) -> Attempt:
    seen: Seen | None = None
    reasons: tuple[str, ...] = ()

    def check() -> str:
        nonlocal seen, reasons
        try:
            seen = asker.ask(case)
        except Unreachable:
            _stop_if_gone(asker)
            raise
        reasons = judge(case, seen, budget)
        if reasons:
            raise CheckFailedError(reasons[0])
        return ""

    line = run_checks([(case.id, check)], lambda _line: None).lines[0]
    return Attempt(
        case=case.id,
        number=number,
        outcome=line.outcome,
        reasons=reasons or ((line.detail,) if line.detail else ()),
        ttft_ms=seen.ttft_ms if seen else None,
        total_ms=seen.total_ms if seen else None,
        tokens=seen.tokens if seen else None,
        model=seen.model if seen else None,
        answer=seen.text[:MAX_ANSWER_CHARS] if seen else "",
    )


def _stop_if_gone(asker: Asker) -> None:
    """A call without an answer is that case's failure, as long as the gateway lives."""
    try:
        Gateway(asker.base_url, asker.token, asker.travel.exchange).get("/health")
    except Unreachable as error:
        raise GoneError(f"{error}; the same command goes on where this one stopped") from None
