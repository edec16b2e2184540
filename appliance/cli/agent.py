"""`appliance agent`: running agents, and what became of their runs: a timeline, a verdict, a fork, a list."""

import json
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

import click

from appliance.cli.asking import Asked, Unavailable, asked, gateway_options, id_argument, printable

SHOWN_CHARS = 400
SHOWN_BEFORE_CHARS = 40
_ENDS = frozenset({"run_completed", "run_failed"})

_as_json = click.option("--json", "as_json", is_flag=True, help="As one JSON object.")


@click.group(help="Run agents on the running gateway; show, verify, fork and list their runs.")
def agent() -> None:
    pass


@agent.command(help="Run an agent on INPUT (`-`: stdin) and show it as it happens. Exit 1 when the run fails.")
@click.argument("input_text", metavar="INPUT")
@click.option("--agent", "name", default="default", show_default=True, help="Which agent.")
@gateway_options
@_as_json
def run(input_text: str, name: str, *, base_url: str | None, token: str | None, insecure: bool, as_json: bool) -> int:
    text = sys.stdin.read() if input_text == "-" else input_text
    gateway = asked(base_url, token, insecure=insecure)
    return _carry_out(gateway, "/v1/agent/run", {"agent": name, "input": text}, as_json=as_json)


@agent.command(help="Run a run again from a step on: up to it as it was, then live, on another model if one is named.")
@id_argument("run", "run_id")
@click.option("--step", type=click.IntRange(min=0), required=True, help="The first step that is new.")
@click.option("--model", help="The model from there on.")
@gateway_options
@_as_json
def fork(
    run_id: str,
    step: int,
    model: str | None,
    *,
    base_url: str | None,
    token: str | None,
    insecure: bool,
    as_json: bool,
) -> int:
    body = {"mode": "fork", "from_step": step, **({"model": model} if model else {})}
    gateway = asked(base_url, token, insecure=insecure)
    return _carry_out(gateway, f"/v1/agent/replay/{run_id}", body, as_json=as_json)


@agent.command(help="Show the timeline of a run: what was said and called, how long it took, what it cost in tokens.")
@id_argument("run", "run_id")
@click.option("--sent", type=click.IntRange(min=0), metavar="STEP", help="The bytes that this step sent to the model.")
@click.option("--received", type=click.IntRange(min=0), metavar="STEP", help="The bytes that it received.")
@gateway_options
@_as_json
def show(
    run_id: str,
    sent: int | None,
    received: int | None,
    *,
    base_url: str | None,
    token: str | None,
    insecure: bool,
    as_json: bool,
) -> int:
    whole = sent is not None or received is not None
    answer = asked(base_url, token, insecure=insecure).get(
        f"/v1/agent/replay/{run_id}{'?payloads=true' if whole else ''}"
    )
    if whole:
        for step, name in ((sent, "request"), (received, "response")):
            if step is not None:
                click.echo(_bytes_of(answer.json()["events"], step, name), nl=False)
        return 0
    if as_json:
        click.echo(answer.body.decode("utf-8"))
        return 0
    for event in answer.json()["events"]:
        _say(event)
    return 0


@agent.command(help="Do a run again from its record, offline. Exit 1 at the first step that comes out differently.")
@id_argument("run", "run_id")
@gateway_options
@_as_json
def verify(run_id: str, *, base_url: str | None, token: str | None, insecure: bool, as_json: bool) -> int:
    gateway = asked(base_url, token, insecure=insecure)
    verdict = gateway.post(f"/v1/agent/replay/{run_id}", {"mode": "verify"}).json()
    if as_json:
        click.echo(json.dumps(verdict))
    elif verdict["identical"]:
        click.echo(f"identical: {verdict['steps']} steps")
    else:
        _say_divergence(verdict["first_divergence"])
    return 0 if verdict["identical"] else 1


@agent.command("list", help="List the token's runs, newest first.")
@click.option("--limit", type=click.IntRange(1, 100), default=20, show_default=True)
@click.option("--agent", "name", help="Only runs of this agent.")
@click.option("--ok/--failed", default=None, help="Only runs that ended well, or only others.")
@gateway_options
@_as_json
def list_runs(
    limit: int,
    name: str | None,
    *,
    ok: bool | None,
    base_url: str | None,
    token: str | None,
    insecure: bool,
    as_json: bool,
) -> int:
    query = {"limit": limit, "agent": name, "ok": None if ok is None else str(ok).lower()}
    given = urlencode({key: value for key, value in query.items() if value is not None})
    found = asked(base_url, token, insecure=insecure).get(f"/v1/agent/runs?{given}").json()
    if as_json:
        click.echo(json.dumps(found))
        return 0
    for row in found["data"]:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(row["created"]))
        outcome = {True: "ok", False: row["error"], None: "running"}[row["ok"]]
        took = "" if row["duration_s"] is None else f"{row['duration_s']:.1f} s"
        click.echo(f"{row['run_id']}  {when}  {row['agent']:<12} {row['steps']:>3} steps {took:>9}  {outcome}")
    return 0


def _carry_out(gateway: Asked, path: str, body: Mapping[str, Any], *, as_json: bool) -> int:
    last: Mapping[str, Any] = {}
    run_id = "RUN_ID"
    for event in gateway.stream(path, {**body, "stream": True}):
        last = event
        run_id = event.get("run_id", run_id)
        if as_json:
            click.echo(json.dumps(event))
        else:
            _say(event)
        sys.stdout.flush()
    if last.get("type") not in _ENDS:
        raise Unavailable(f"the answer broke off: `appliance agent show {run_id}` says how far the run came")
    return 0 if last["ok"] else 1


def _bytes_of(events: Sequence[Mapping[str, Any]], step: int, name: str) -> bytes:
    """What a model call sent or received, as it went over the wire."""
    for event in events:
        if event.get("step") == step and isinstance(event.get(name), str):
            return str(event[name]).encode("utf-8", "surrogateescape")
    raise click.UsageError(
        f"step {step} of this run is no model call: `appliance agent show RUN_ID --json` has them all"
    )


def _say(event: Mapping[str, Any]) -> None:
    """One event as a few lines for people."""
    kind = event["type"]
    if kind == "run_started":
        click.echo(
            f"{event['run_id']}  {event['agent']} (tier {event['tier']}) on {event['backend']}:{event['upstream_model']}"
        )
        if "forked_from" in event:
            click.echo(f"  forked from {event['forked_from']['run_id']} at step {event['forked_from']['step']}")
        return
    if kind in _ENDS:
        said = event["output_text"] if event["ok"] else event["error"]
        click.echo(f"  {'ok' if event['ok'] else 'failed'}: {printable(said)}")
        return
    tokens = event.get("usage")
    cost = f", {tokens['prompt_tokens']}+{tokens['completion_tokens']} tokens" if tokens else ""
    took = event.get("duration_ms", event.get("runtime_ms", 0.0))
    click.echo(f"  {event['step']:>3} {kind:<9} {took:>8.1f} ms{cost}")
    for line in _details(event):
        click.echo(f"      {line}")


def _details(event: Mapping[str, Any]) -> Sequence[str]:
    """What a step said; long payloads are named in `blobs` and not shown."""
    if event["type"] == "tool":
        given = _compact(event.get("arguments", "(long)"))
        gave = "ok" if event["ok"] else "failed"
        return (f"{_short(event['tool'])} {given} -> {gave} {_compact(event.get('result', '(long)'))}",)
    said = [_short(event["text"])] if event.get("text") else []
    return (
        *said,
        *(f"calls {_short(call['name'])} {_compact(call['arguments'])}" for call in event.get("tool_calls", ())),
    )


def _say_divergence(found: Mapping[str, Any]) -> None:
    place = f"event {found['event']}" + (f", step {found['step']}" if found.get("step") is not None else "")
    click.echo(f"diverges at {place}: {found['what']}")
    if "reason" in found:
        click.echo(f"  {found['reason']}")
        return
    recorded, now = _from_difference(_text(found.get("recorded")), _text(found.get("now")))
    click.echo(f"  recorded: {_short(recorded)}")
    click.echo(f"  now:      {_short(now)}")


def _from_difference(one: str, other: str) -> tuple[str, str]:
    """Both from a little before where they part: requests of one run begin alike for pages."""
    pairs = enumerate(zip(one, other, strict=False))
    same = next((place for place, (left, right) in pairs if left != right), min(len(one), len(other)))
    if same <= SHOWN_BEFORE_CHARS * 2:
        return one, other
    start = same - SHOWN_BEFORE_CHARS
    return f"... {one[start:]}", f"... {other[start:]}"


def _compact(value: object) -> str:
    return _short(_text(value))


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _short(text: str) -> str:
    line = printable(" ".join(text.split()))
    return line if len(line) <= SHOWN_CHARS else f"{line[:SHOWN_CHARS]} ..."
