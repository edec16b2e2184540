"""`appliance tools`: what the running gateway's tools are, running one, showing a run again, checking a registry."""

import json
import sys
from pathlib import Path
from typing import Any

import click

from appliance.cli.asking import asked, gateway_options, id_argument, printable
from appliance.config.errors import Findings

EXIT_CONFIGURATION = 78  # EX_CONFIG of sysexits.h

_as_json = click.option("--json", "as_json", is_flag=True, help="As one JSON object.")


@click.group(help="List, run and replay the tools of the running gateway; check a tool registry.")
def tools() -> None:
    pass


@tools.command("list", help="List the tools that the token may run.")
@gateway_options
@_as_json
def list_tools(*, base_url: str | None, token: str | None, insecure: bool, as_json: bool) -> int:
    found = asked(base_url, token, insecure=insecure).get("/v1/tools").json()
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return 0
    for tool in found["data"]:
        click.echo(
            f"{tool['name']:<20} {tool['version']:<6} {tool['source']:<9} {printable(_first_sentence(tool['description']))}"
        )
    return 0


@tools.command(help="Run a tool. ARGUMENTS: a JSON object, or `-` for one on stdin. Exit 1 when the tool fails.")
@click.argument("name")
@click.argument("arguments", default="{}")
@gateway_options
def run(name: str, arguments: str, *, base_url: str | None, token: str | None, insecure: bool) -> int:
    body = {"name": name, "arguments": _read_arguments(arguments)}
    ran = asked(base_url, token, insecure=insecure).post("/v1/tools", body).json()
    click.echo(json.dumps(ran, indent=2, ensure_ascii=False))
    return 0 if ran["ok"] else 1


@tools.command(help="Show the stored record of a run, byte for byte.")
@id_argument("tool", "replay_id")
@gateway_options
def replay(replay_id: str, *, base_url: str | None, token: str | None, insecure: bool) -> int:
    record = asked(base_url, token, insecure=insecure).get(f"/v1/tools/replay/{replay_id}")
    click.echo(record.body.decode("utf-8"))
    return 0


@tools.command(help="Check a tool registry file, and say its SHA-256 for TOOLS_REGISTRY_SHA256. Exit 78 for a mistake.")
@click.argument("file", type=click.Path(path_type=Path))
@_as_json
def check(file: Path, *, as_json: bool) -> int:
    from appliance.config.tool_registry import load_tool_registry  # noqa: PLC0415 -- jsonschema, for this one alone

    findings = Findings.none()
    registry = load_tool_registry(file.absolute(), findings)
    if as_json:
        errors = [{"where": one.where, "message": one.message} for one in findings.mistakes]
        found = {"sha256": registry.sha256, "tools": [tool.name for tool in registry.tools]} if registry else {}
        click.echo(json.dumps({"ok": registry is not None, "errors": errors, "warnings": findings.warnings, **found}))
        return 0 if registry is not None else EXIT_CONFIGURATION
    for mistake in findings.mistakes:
        click.echo(f"appliance: {mistake}", err=True)
    for warning in findings.warnings:
        click.echo(f"warning: {warning}", err=True)
    if registry is None:
        return EXIT_CONFIGURATION
    click.echo(
        f"ok: {len(registry.tools)} tools: {', '.join(f'{tool.name} {tool.version}' for tool in registry.tools)}"
    )
    click.echo(f"sha256: {registry.sha256}")
    return 0


def _read_arguments(text: str) -> dict[str, Any]:
    source = sys.stdin.read() if text == "-" else text
    try:
        arguments = json.loads(source)
    except ValueError as error:
        raise click.UsageError(f"ARGUMENTS are no JSON: {error}") from None
    if not isinstance(arguments, dict):
        raise click.UsageError('ARGUMENTS must be a JSON object: write \'{"text": "a"}\'')
    return arguments


def _first_sentence(text: str) -> str:
    return text.partition(". ")[0].rstrip(".") + "."
