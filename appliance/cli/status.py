"""`appliance status`: what is installed, what runs, and where everything is."""

import json
from dataclasses import asdict
from typing import Any

import click

from appliance.host.installed import installed_machine
from appliance.host.standing import read_standing


@click.command("status", help="Say which release is installed and whether it runs; exit 3 if it does not.")
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
def status(*, as_json: bool) -> int:
    machine = installed_machine()
    standing = read_standing(machine)
    current, previous = standing.receipt.current, standing.receipt.previous
    facts: dict[str, Any] = {
        "running": standing.service.running,
        "current": asdict(current) if current else None,
        "previous": asdict(previous) if previous else None,
        "running_is_installed": standing.same,
        "service": asdict(standing.service),
        "url": standing.url,
        "unit_edited": standing.unit_edited,
        "paths": {
            "configuration": str(machine.etc),
            "tokens": str(machine.etc / "tokens"),
            "state": str(machine.state),
            "unit": str(machine.unit),
            "executable": str(machine.command),
        },
    }
    if as_json:
        click.echo(json.dumps(facts, indent=2))
    else:
        _show(facts)
    return 0 if standing.service.running else 3  # as systemctl status has it


def _show(facts: dict[str, Any]) -> None:
    service, current, previous = facts["service"], facts["current"], facts["previous"]
    click.echo(f"release: {current['name']}" + (f", before it {previous['name']}" if previous else ""))
    restarts = f", restarted {service['restarts']} times" if service["restarts"] else ""
    click.echo(
        f"service: {service['active']} ({service['sub']}), {'' if service['enabled'] else 'not '}enabled{restarts}"
    )
    if service["status"]:
        click.echo(f"  {service['status']}")
    if facts["running_is_installed"] is False:
        click.echo("  what runs is not what is installed: `systemctl restart appliance`")
    if facts["unit_edited"]:
        click.echo("  the unit was edited by hand: upgrades leave it as it is")
    click.echo(f"url: {facts['url'] or 'unknown: see `appliance config check` as root'}")
    for name, path in facts["paths"].items():
        click.echo(f"{name}: {path}")
    click.echo("log: journalctl -u appliance -f")
