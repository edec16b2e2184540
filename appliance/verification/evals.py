"""run_evals: does a gateway answer as a file of cases expects, and is it worse than it was?"""

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance.verification.evals_asking import Asker, Travel, open_travel
from appliance.verification.evals_cases import MAX_FILE_BYTES, BadCases, Budget, Case, parse_cases
from appliance.verification.evals_files import LATEST, Partial
from appliance.verification.evals_options import make_parser
from appliance.verification.evals_report import Baseline, Golden, Run, Terms, case_line, keep_run, read_standings
from appliance.verification.evals_results import Attempt
from appliance.verification.evals_running import GoneError, run_cases
from appliance.verification.http import Gateway, Unreachable, one_line
from appliance.verification.starting import DidNotStartError, own_command, started_gateway
from appliance.verification.tokens import find_token, is_token

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as a shell says it

TIMEOUT_S = 180.0  # longest silence; a model's first word may take a minute


class _Usage(Exception):
    """What was asked for cannot be done with what was given."""


@dataclass(frozen=True, slots=True)
class _Target:
    """The gateway that is asked. `name`: the same from run to run, also where a started one has another port."""

    name: str
    base_url: str
    obs_url: str | None
    token: str
    required: bool


def main(
    argv: Sequence[str],
    environ: Mapping[str, str] = os.environ,
    travel: Travel | None = None,
    now: Callable[[], float] = time.time,
) -> int:
    """Ask every case, write the report, and return the exit code: 0 all good; 1 a failure, or a regression against the
    baseline; 2 usage, or a file that cannot be used; 130 interrupted. `now`: Unix time in seconds."""
    try:
        options = make_parser().parse_args(argv)
    except SystemExit as stop:  # argparse has printed its help or what is wrong
        return EXIT_OK if stop.code == 0 else EXIT_USAGE
    try:
        return _evaluate(options, environ, travel, now)
    except _Usage as error:
        return _say_error(str(error), EXIT_USAGE)
    except (GoneError, DidNotStartError) as error:
        return _say_error(str(error), EXIT_FAILED)
    except OSError as error:
        return _say_error(f"{options.out_dir}: cannot be written ({error.strerror or error})", EXIT_FAILED)
    except KeyboardInterrupt:
        return _say_error("interrupted: the same command goes on where this one stopped", EXIT_INTERRUPTED)


def _evaluate(
    options: argparse.Namespace, environ: Mapping[str, str], travel: Travel | None, now: Callable[[], float]
) -> int:
    golden, baseline = _read_golden(options.golden), _read_baseline(options)
    carry = travel or open_travel(insecure=options.insecure, timeout_s=TIMEOUT_S)
    with ExitStack() as stack:
        target = _find_target(options, environ, stack)
        ready = _readiness(target, carry)
        if target.required and ready["status"] != 200:
            return _say_error(f"the gateway is not ready: /readyz answers {json.dumps(ready)}", EXIT_FAILED)
        budget = Budget(options.ttft_budget_ms, options.total_budget_ms)
        terms = Terms(target.name, target.required, options.repeat, budget)
        options.out_dir.mkdir(parents=True, exist_ok=True)
        started_at = now()
        partial = Partial(options.out_dir, {**terms.facts(), "golden_sha256": golden.sha256}, started_at)
        _begin(partial, fresh=options.fresh)
        asker = Asker(target.base_url, target.token, carry, target.required)
        say = _say_nothing if options.json else _say_case
        attempts = run_cases(golden.cases, asker, budget, options.repeat, partial, say)
    verdict = keep_run(options.out_dir, Run(golden, terms, ready, attempts, started_at, now(), baseline))
    partial.remove()
    print((options.out_dir / LATEST).read_text(encoding="utf-8").rstrip() if options.json else "\n".join(verdict.lines))
    return EXIT_OK if verdict.ok else EXIT_FAILED


def _begin(partial: Partial, *, fresh: bool) -> None:
    reached = () if fresh else partial.load()
    if not reached:
        partial.start()
        return
    print(f"going on after {len(reached)} attempts of an interrupted run ({partial.path})", file=sys.stderr)


def _read_golden(path: Path) -> Golden:
    data = _read(path)
    try:
        return Golden(path, hashlib.sha256(data).hexdigest(), parse_cases(data))
    except BadCases as bad:
        raise _Usage(one_line(f"{path}: {bad}")) from None


def _read_baseline(options: argparse.Namespace) -> Baseline | None:
    if options.baseline is None:
        return None
    try:
        standings = read_standings(_read(options.baseline))
    except ValueError as bad:
        raise _Usage(one_line(f"{options.baseline}: {bad}")) from None
    return Baseline(options.baseline, standings, options.latency_tolerance_percent)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise _Usage(f"{path}: {error.strerror}") from None
    if len(data) > MAX_FILE_BYTES:
        raise _Usage(f"{path}: is larger than {MAX_FILE_BYTES} bytes")
    return data


def _find_target(options: argparse.Namespace, environ: Mapping[str, str], stack: ExitStack) -> _Target:
    if options.start_server:
        own = stack.enter_context(started_gateway(own_command()))
        return _Target("started", own.base_url, own.obs_url, own.token, required=True)
    token = find_token(options.token, environ, options.base_url)
    if token is None or not is_token(token):
        raise _Usage("no token, or one with blanks in it: give --token, or set GATEWAY_BEARER_TOKEN")
    return _Target(options.base_url, options.base_url, options.obs_url, token, options.require_backend)


def _readiness(target: _Target, travel: Travel) -> dict[str, Any]:
    """What the gateway says of its classes: for the report, and a reason not to begin where a model is required."""
    try:
        answer = Gateway(target.obs_url or target.base_url, "", travel.exchange).get("/readyz")
    except Unreachable as error:
        raise GoneError(str(error)) from None
    body = answer.json()
    classes = body.get("backends") if isinstance(body, dict) else None
    named = classes if isinstance(classes, dict) else {}
    ready = sorted(name for name, one in named.items() if isinstance(one, dict) and one.get("ready"))
    return {"status": answer.status, "ready": ready}


def _say_case(case: Case, made: Sequence[Attempt]) -> None:
    print(case_line(case, made), flush=True)


def _say_nothing(_case: Case, _made: Sequence[Attempt]) -> None:
    """The report is all that is printed."""


def _say_error(text: str, code: int) -> int:
    print(f"error: {text}", file=sys.stderr)
    return code
