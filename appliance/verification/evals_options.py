"""Options: the command line of the evals."""

import argparse
from pathlib import Path

from appliance.verification.flags import base_url

TOLERANCE_PERCENT = 50.0


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="run_evals",
        description="Ask a gateway the cases of a file, judge the answers, write a report. "
        "Exit: 0 all good, 1 a failure or a regression, 2 usage or a bad file, 130 interrupted.",
    )
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--base-url", type=base_url, metavar="URL", help="the gateway that is asked")
    where.add_argument("--start-server", action="store_true", help="start one for it, with the scripted model")
    add = parser.add_argument
    add("--obs-url", type=base_url, metavar="URL", help="its observability listener, which needs no token")
    add("--token", help="default: GATEWAY_BEARER_TOKEN, else the generated token file of a local gateway")
    add("--insecure", action="store_true", help="do not check TLS certificates")
    add("--require-backend", action="store_true", help="a model that is not there is a failure, else it is skipped")
    add("--golden", type=Path, required=True, metavar="FILE", help="the cases, as JSON")
    add("--out-dir", type=Path, default=Path("evals"), metavar="DIR", help="where reports go; default: ./%(default)s")
    add("--ttft-budget-ms", type=_positive, default=1500.0, metavar="MS", help="to a stream's first word; %(default)g")
    add("--total-budget-ms", type=_positive, default=15000.0, metavar="MS", help="for an answer; default: %(default)g")
    add("--repeat", type=_count, default=1, metavar="N", help="ask every case N times; default: %(default)s")
    add("--baseline", type=Path, metavar="REPORT", help="an earlier report: what got worse fails")
    add(
        "--latency-tolerance-percent",
        type=_positive,
        default=TOLERANCE_PERCENT,
        metavar="P",
        help="a median this much above the baseline, and 100 ms, got worse; default: %(default)g",
    )
    add("--json", action="store_true", help="print the report as one JSON object instead of lines")
    add("--fresh", action="store_true", help="do not go on where an interrupted run stopped")
    return parser


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is no number above 0")
    return value


def _count(text: str) -> int:
    value = int(text)
    if not 1 <= value <= 1000:
        raise argparse.ArgumentTypeError(f"{text}: from 1 to 1000")
    return value
