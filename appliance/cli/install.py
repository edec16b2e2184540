"""`appliance install`: this file becomes a service of this machine."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import click

from appliance.host.candidate import inspect
from appliance.host.installing import Installed, InstallOptions, install, own_file, plan
from appliance.host.machine import Machine
from appliance.host.unit import unit_for

_LOG = "journalctl -u appliance -f"
_ADDRESS = re.compile(
    r"(?:(?P<host>[^:\[\]\s]+)|\[(?P<six>[0-9a-fA-F:.]+)\])(?::(?P<port>\d{1,5}))?"
    r"|(?P<bare>[0-9a-fA-F.]*:[0-9a-fA-F.]*:[0-9a-fA-F:.]*)"  # an IPv6 address alone has two colons or more
)


class Bind(click.ParamType[tuple[str, int | None]]):
    """HOST, HOST:PORT or [IPV6]:PORT."""

    name = "host[:port]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int | None]:
        written = _ADDRESS.fullmatch(str(value))
        port = int(written["port"]) if written and written["port"] else None
        if written is None or (port is not None and not 0 < port < 65536):
            self.fail(f"{value!r}: write HOST or HOST:PORT, as 0.0.0.0:8800 or [::]:8800", param, ctx)
        return written["host"] or written["six"] or written["bare"], port


@click.command(
    "install", help="Install this executable as a service of this machine (root): run it, try it, say where."
)
@click.option(
    "--prefix", type=click.Path(path_type=Path), default=Path("/usr/local"), help="Below it lie the releases."
)
@click.option("--bind", type=Bind(), help="Where the API listens (default 127.0.0.1:8800); 0.0.0.0: the whole network.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
@click.option("--no-start", is_flag=True, help="Lay everything out, but do not start it.")
@click.option("--json", "as_json", is_flag=True, help="Say what came of it as one JSON object.")
@click.option("--show-unit", is_flag=True, help="Print the systemd unit, and do nothing.")
def install_command(
    *, prefix: Path, bind: tuple[str, int | None] | None, dry_run: bool, no_start: bool, as_json: bool, show_unit: bool
) -> int:
    if not prefix.is_absolute():
        raise click.BadParameter("write an absolute path", param_hint="--prefix")
    if show_unit:
        click.echo(unit_for(prefix), nl=False)
        return 0
    machine = Machine(prefix=prefix)
    candidate = inspect(machine, own_file(sys.executable))
    host, port = bind or (None, None)
    options = InstallOptions(host=host, port=port, start=not no_start)
    if dry_run:
        lines = plan(machine, candidate, options)
        click.echo(json.dumps({"plan": lines}) if as_json else "\n".join(lines))
        return 0
    installed = install(machine, candidate, options, lambda line: click.echo(f"{line} ...", err=as_json))
    if as_json:
        click.echo(json.dumps(_facts(machine, installed, started=options.start)))
    else:
        _tell(machine, installed, started=options.start)
    return 0


def _facts(machine: Machine, installed: Installed, *, started: bool) -> dict[str, Any]:
    release = installed.released.receipt.current
    return {
        "release": release and release.name,
        "started": started,
        "url": installed.released.wanted.api.url,
        "token": installed.token,
        "token_file": str(machine.etc / "tokens"),
        "configuration": str(machine.etc / "appliance.env"),
        "log": _LOG,
        "notes": installed.released.notes,
    }


def _tell(machine: Machine, installed: Installed, *, started: bool) -> None:
    url = installed.released.wanted.api.url
    for note in installed.released.notes:
        click.echo(f"note: {note}", err=True)
    click.echo(
        f"\nappliance serves {url}"
        if started
        else f"\ninstalled; it will serve {url} after `systemctl start appliance`"
    )
    click.echo(f"  token: in {machine.etc / 'tokens'}")
    if installed.token is not None:
        click.echo(f"  token, shown this once: {installed.token}")
    click.echo(f"  configuration: {machine.etc / 'appliance.env'}")
    click.echo(f"  log: {_LOG}")
    click.echo("  a first picture, as root:")
    click.echo(
        f'    curl -s {url}/v1/images/generations -H "Authorization: Bearer $(tail -n 1 {machine.etc / "tokens"})" \\'
    )
    click.echo("      -H 'Content-Type: application/json' -d '{\"prompt\": \"a lighthouse at dusk\"}'")
