"""`appliance uninstall`: what the receipt lists goes."""

import json

import click

from appliance.host.installed import installed_machine
from appliance.host.releasing import as_host_failures
from appliance.host.uninstalling import uninstall


@click.command("uninstall", help="Remove service and releases (root); configuration and state stay, unless purged.")
@click.option("--purge", is_flag=True, help="Remove configuration, tokens, state and the user too.")
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
def uninstall_command(*, purge: bool, as_json: bool) -> int:
    with as_host_failures():
        left = uninstall(installed_machine(), purge=purge, say=lambda line: click.echo(f"{line} ...", err=as_json))
    if as_json:
        click.echo(json.dumps({"uninstalled": True, "left": left}))
        return 0
    click.echo("uninstalled")
    for line in left:
        click.echo(f"  left: {line}")
    if left and not purge:
        click.echo("  `appliance uninstall --purge`, of the file you installed from, removes these too")
    return 0
