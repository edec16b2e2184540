"""`appliance upgrade` and `appliance rollback`: another release takes over, or the one before."""

import json
from pathlib import Path

import click

from appliance.host.installed import installed_machine
from appliance.host.releasing import Released
from appliance.host.upgrading import rollback, upgrade

_as_json = click.option("--json", "as_json", is_flag=True, help="As one JSON object.")


@click.command("upgrade", help="Make FILE the release that serves (root); if it does not, the old one serves again.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--sha256", default="", help="FILE must have this digest.")
@click.option("--allow-older", is_flag=True, help="FILE may be older than what is installed.")
@_as_json
def upgrade_command(*, file: Path, sha256: str, allow_older: bool, as_json: bool) -> int:
    released = upgrade(installed_machine(), file, sha256=sha256, allow_older=allow_older, say=_say)
    if released is None:
        click.echo(json.dumps({"changed": False}) if as_json else "that is the release which serves already")
        return 0
    _tell(released, as_json=as_json)
    return 0


@click.command("rollback", help="Go back to the release before this one (root).")
@_as_json
def rollback_command(*, as_json: bool) -> int:
    _tell(rollback(installed_machine(), _say), as_json=as_json)
    return 0


def _say(line: str) -> None:
    click.echo(f"{line} ...", err=True)


def _tell(released: Released, *, as_json: bool) -> None:
    current, previous = released.receipt.current, released.receipt.previous
    names = {"current": current and current.name, "previous": previous and previous.name}
    if as_json:
        click.echo(json.dumps({"changed": True, **names, "url": released.wanted.api.url, "notes": released.notes}))
        return
    for note in released.notes:
        click.echo(f"note: {note}", err=True)
    back = f"; `appliance rollback` goes back to {names['previous']}" if previous else ""
    click.echo(f"{names['current']} serves {released.wanted.api.url}{back}")
