"""verify_gateway: does a gateway do what the contract says? One that runs, or one that is started for the purpose."""

import argparse
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from appliance.verification.flags import add_gateway_flags
from appliance.verification.gateway_checks import GatewayChecks
from appliance.verification.http import Exchange, Gateway, open_exchange
from appliance.verification.images import gateway_checks as image_checks
from appliance.verification.report import (
    Check,
    CheckFailedError,
    CheckSkippedError,
    Line,
    Report,
    StopError,
    expect,
    run_checks,
    stop_unreachable,
)
from appliance.verification.starting import DidNotStartError, Started, own_command, started_gateway
from appliance.verification.tokens import find_token, is_token

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as a shell says it

TIMEOUT_S = 180.0  # longest silence; a model's first word may take a minute
PYTEST_TIMEOUT_S = 1800.0
TREE = Path(__file__).resolve().parents[2]


def main(argv: Sequence[str], environ: Mapping[str, str] = os.environ, exchange: Exchange | None = None) -> int:
    """Check, print a line for each, and return the exit code: 0 all fine, 1 any failure, 2 usage, 130 interrupted."""
    try:
        options = make_parser().parse_args(argv)
    except SystemExit as stop:  # argparse has printed its help or what is wrong
        return EXIT_OK if stop.code == 0 else EXIT_USAGE
    if options.base_url is None and options.no_start:
        print("error: --no-start needs --base-url: say which gateway is to be checked", file=sys.stderr)
        return EXIT_USAGE
    try:
        return _verify(options, environ, exchange)
    except _Usage as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USAGE
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED


def smoke_test(argv: Sequence[str], environ: Mapping[str, str] = os.environ) -> int:
    """`appliance smoke-test`: the same without the tree's own tests, and with pictures. 0, 1, 2, 130 as above."""
    return main(["--skip-pytest", "--check-images", *argv], environ)


class _Usage(Exception):
    """What was asked for cannot be done with what was given."""


class _Run:
    """One verification: what is known once the gateway is there."""

    def __init__(self, options: argparse.Namespace, environ: Mapping[str, str], exchange: Exchange | None) -> None:
        self.options = options
        self.environ = environ
        self.carry = exchange or open_exchange(insecure=options.insecure, timeout_s=TIMEOUT_S)
        self.own: Started | None = None

    @property
    def required(self) -> bool:
        """A model that does not answer is a failure: asked for, or our own mock."""
        return bool(self.options.require_backend or self.options.appliance or self.own is not None)

    @property
    def with_images(self) -> bool:
        return bool(self.options.check_images or self.options.appliance or self.own is not None)

    def gateway(self) -> Gateway:
        if self.own is not None:
            return Gateway(self.own.base_url, self.own.token, stop_unreachable(self.carry))
        token = find_token(self.options.token, self.environ, self.options.base_url)
        if token is None or not is_token(token):
            raise _Usage("no token, or one with blanks in it: give --token, or set GATEWAY_BEARER_TOKEN")
        return Gateway(self.options.base_url, token, stop_unreachable(self.carry))

    def observability(self) -> Gateway | None:
        url = self.own.obs_url if self.own is not None else self.options.obs_url
        return Gateway(url, "", self.carry) if url else None


def _verify(options: argparse.Namespace, environ: Mapping[str, str], exchange: Exchange | None) -> int:
    run = _Run(options, environ, exchange)
    if options.base_url is not None:
        run.gateway()  # bad usage is said before anything is done

    def say(line: Line) -> None:
        if not options.json:
            print(line, flush=True)

    with ExitStack() as stack:
        first = run_checks([("pytest", lambda: _pytest(options)), ("start_server", lambda: _start(run, stack))], say)
        report = first
        if not first.stopped and (run.own is not None or options.base_url is not None):
            checks = GatewayChecks(run.gateway(), run.observability(), require_backend=run.required)
            second = run_checks(_before_tools(checks, run), say)
            third = run_checks([*checks.tool_checks(), *_after_tools(checks)], say) if not second.stopped else second
            report = _join(first, second, *([] if second.stopped else [third]))
    print(report.as_json() if options.json else report.summary())
    return EXIT_OK if report.ok else EXIT_FAILED


def _before_tools(checks: GatewayChecks, run: _Run) -> list[tuple[str, Check]]:
    pictures = [("images", _images(run))]
    return [
        ("health_get", checks.health_get),
        ("health_head", checks.health_head),
        ("metrics", checks.metrics),
        *pictures,
        ("models", checks.models),
        ("tools_list", checks.tools_list),
        ("tools_has_noop", checks.tools_has_noop),
        ("tool_exec_noop", checks.tool_exec_noop),
        ("tool_dispatch_noop", checks.tool_dispatch_noop),
        ("tool_replay", checks.tool_replay),
        ("tool_hash_vectors", checks.tool_hash_vectors),
        ("agent_run", checks.agent_run),
        ("agent_replay", checks.agent_replay),
    ]


def _after_tools(checks: GatewayChecks) -> list[tuple[str, Check]]:
    return [
        ("health_upstreams", checks.health_upstreams),
        ("backend_required", checks.backend_required),
        ("embeddings", checks.embeddings),
        ("responses", checks.responses),
        ("chat", checks.chat),
        ("chat_stream", checks.chat_stream),
    ]


def _images(run: _Run) -> Check:
    """All of verify_images as one check; what failed is in its detail."""

    def check() -> str:
        if not run.with_images:
            raise CheckSkippedError("not asked for: --check-images draws")
        report = run_checks(image_checks(run.gateway(), "64x64"), lambda _line: None)
        failed = [f"{line.name}: {line.detail}" for line in report.lines if line.outcome == "FAIL"]
        if failed:
            raise CheckFailedError("; ".join(failed))
        return report.summary()

    return check


def _pytest(options: argparse.Namespace) -> str:
    if options.skip_pytest or options.base_url is not None:
        raise CheckSkippedError("not asked for" if options.skip_pytest else "another gateway is checked")
    if not (TREE / "tests").is_dir():
        raise CheckSkippedError("this is no source tree")
    command = [*own_command()[:1], "-m", "pytest", "-q", "--no-cov", "-p", "no:cacheprovider"]
    try:
        done = subprocess.run(  # noqa: S603 -- our own tests
            command, cwd=TREE, capture_output=True, text=True, timeout=PYTEST_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise CheckFailedError(f"no end within {PYTEST_TIMEOUT_S:g} s") from None
    last = (done.stdout.strip().splitlines() or ["it said nothing"])[-1]
    expect(done.returncode == 0, last)
    return last


def _start(run: _Run, stack: ExitStack) -> str:
    if run.options.base_url is not None:
        raise CheckSkippedError(f"checking {run.options.base_url}")
    try:
        run.own = stack.enter_context(started_gateway(own_command()))
    except DidNotStartError as error:
        raise StopError(str(error)) from None
    return f"{run.own.version} at {run.own.base_url}"


def _join(*reports: Report) -> Report:
    lines = tuple(line for report in reports for line in report.lines)
    return Report(lines, sum(report.stopped for report in reports))


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="verify_gateway",
        description="Check a gateway; without --base-url, one that is started for it on a free port. "
        "Exit: 0 all fine, 1 any failure, 2 usage, 130 interrupted.",
    )
    add = parser.add_argument
    add_gateway_flags(parser, base_url_help="the gateway that runs; default: start one")
    add("--skip-pytest", action="store_true", help="do not run the tree's own tests first")
    add("--require-backend", action="store_true", help="a model that does not answer is a failure")
    add("--appliance", action="store_true", help="as on a box: --require-backend and --check-images")
    add("--no-start", action="store_true", help="never start a gateway: --base-url is needed")
    add("--check-images", action="store_true", help="draw, fetch and refuse pictures too")
    add("--json", action="store_true", help="print one JSON object instead of lines")
    return parser
