"""`appliance doctor`, `appliance bug-report`: what is wrong with this box, for its owner and for those who help."""

import json
import os
import time
from dataclasses import asdict
from pathlib import Path

import click

from appliance.doctor.examining import admit, examine, is_well
from appliance.doctor.patient import Patient, Reply, Result
from appliance.doctor.report import make_report, report_name, write_report
from appliance.host.failures import HostFailure
from appliance.host.installed import installed_machine
from appliance.host.machine import Machine
from appliance.verification.http import Call, Unreachable, open_exchange

ASK_TIMEOUT_S = 3.0
_ID_WIDTH = 28


@click.command(
    "doctor",
    help="Look at configuration, state, disk, clock, ports, tokens, backends, release and journals, and say what to do. "
    "Changes nothing. Exit 1 if something has failed.",
)
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
def doctor(*, as_json: bool) -> int:
    results = examine(_patient())
    if as_json:
        click.echo(json.dumps({"ok": is_well(results), "results": [asdict(result) for result in results]}, indent=2))
    else:
        for result in results:
            _show(result)
        counts = [
            f"{sum(one.verdict == verdict for one in results)} {verdict}" for verdict in ("ok", "warning", "failure")
        ]
        click.echo(", ".join(counts))
    return 0 if is_well(results) else 1


@click.command(
    "bug-report",
    help="Write an archive for those who help: the doctor's answer, version, configuration, the end of the request "
    "journal and metrics, without tokens, passwords, peers and prompts. It stays here until you send it.",
)
@click.option("--out", type=click.Path(path_type=Path), help="Where to; default: a name with the time, here.")
@click.option("--json", "as_json", is_flag=True, help="Say what was written as one JSON object.")
def bug_report(*, out: Path | None, as_json: bool) -> int:
    now = time.time()
    path = out or Path(report_name(now))
    patient = _patient()
    files = make_report(patient, examine(patient))
    try:
        write_report(path, files, now)
    except OSError as error:
        raise click.ClickException(f"{path}: {error.strerror or error}") from None
    if as_json:
        click.echo(
            json.dumps({"path": str(path), "files": {name: len(data) for name, data in files.items()}}, indent=2)
        )
        return 0
    click.echo(f"{path}: {', '.join(files)}")
    click.echo("nothing was sent; look through it before you do: it names addresses, models and paths of this box")
    return 0


def _patient() -> Patient:
    return admit(os.environ, _machine(), _ask)


def _machine() -> Machine:
    try:
        return installed_machine()
    except HostFailure:
        return Machine()  # the check of the release says what it is


def _ask(url: str) -> Reply | None:
    """A certificate is looked at by clients, not by the doctor: the question is who listens here."""
    try:
        answer = open_exchange(insecure=True, timeout_s=ASK_TIMEOUT_S)(Call("GET", url))
    except Unreachable:
        return None
    return Reply(answer.status, answer.header("x-request-id"), answer.body)


def _show(result: Result) -> None:
    mark = {"ok": "OK", "warning": "WARN", "failure": "FAIL"}[result.verdict]
    click.echo(f"{result.id:<{_ID_WIDTH}}  {mark:<4}  {_printable(result.seen)}")
    if result.remedy is not None:
        click.echo(f"{'':<{_ID_WIDTH}}        -> {_printable(result.remedy)}")


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else " " for char in text)
