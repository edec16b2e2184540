"""A report: one line a check, OK, SKIP or FAIL, then a summary."""

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Literal

from appliance.verification.http import Answer, Call, Exchange, Unreachable, one_line

Outcome = Literal["OK", "SKIP", "FAIL"]
Check = Callable[[], str]  # returns the detail of an OK

NAME_WIDTH = 24


class CheckFailedError(Exception):
    """What was seen is not what the contract says."""


class CheckSkippedError(Exception):
    """There is nothing to check here."""


class StopError(CheckFailedError):
    """Failed, and no later check can do better."""


@dataclass(frozen=True, slots=True)
class Line:
    """The outcome of one check."""

    name: str
    outcome: Outcome
    detail: str
    elapsed_ms: int

    def __str__(self) -> str:
        return f"{self.name:<{NAME_WIDTH}}  {self.outcome:<4}  {self.detail}".rstrip()


@dataclass(frozen=True, slots=True)
class Report:
    """All lines, in order. `stopped`: checks that were not tried after one that made them pointless."""

    lines: tuple[Line, ...]
    stopped: int

    @property
    def ok(self) -> bool:
        return all(line.outcome != "FAIL" for line in self.lines)

    def count(self, outcome: Outcome) -> int:
        return sum(line.outcome == outcome for line in self.lines)

    def summary(self) -> str:
        """One line, for a person."""
        counts = f"{self.count('OK')} ok, {self.count('SKIP')} skipped, {self.count('FAIL')} failed"
        return f"{counts}, {self.stopped} not tried" if self.stopped else counts

    def as_json(self) -> str:
        """All of it, for a program."""
        return json.dumps(
            {"ok": self.ok, "not_tried": self.stopped, "checks": [asdict(line) for line in self.lines]}, indent=2
        )


def expect(condition: bool, otherwise: str) -> None:
    """Fail the check with these words unless the condition holds."""
    if not condition:
        raise CheckFailedError(otherwise)


def stop_unreachable(exchange: Exchange) -> Exchange:
    """Carry calls to what every check needs: once it gives no answer, no later check is worth its time."""

    def carry(call: Call) -> Answer:
        try:
            return exchange(call)
        except Unreachable as error:
            raise StopError(str(error)) from None

    return carry


def run_checks(checks: Iterable[tuple[str, Check]], say: Callable[[Line], None]) -> Report:
    """Run the checks in order and tell `say` each line as it is known."""
    lines: list[Line] = []
    waiting = list(checks)
    while waiting:
        name, check = waiting.pop(0)
        started_s = time.monotonic()
        outcome, detail, stop = _run(check)
        lines.append(Line(name, outcome, detail, round((time.monotonic() - started_s) * 1000)))
        say(lines[-1])
        if stop:
            break
    return Report(tuple(lines), len(waiting))


def _run(check: Check) -> tuple[Outcome, str, bool]:
    try:
        return "OK", check(), False
    except CheckSkippedError as skipped:
        return "SKIP", str(skipped), False
    except StopError as failed:
        return "FAIL", str(failed), True
    except CheckFailedError as failed:
        return "FAIL", str(failed), False
    except Unreachable as failed:
        return "FAIL", str(failed), False
    except (LookupError, TypeError, ValueError, AttributeError) as failed:  # a check walked into what is not there
        return "FAIL", one_line(f"an answer of an unexpected shape: {failed!r}"), False
