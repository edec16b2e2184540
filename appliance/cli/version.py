"""`appliance version`: which program this is. Imports nothing heavy: scripts call it often."""

import json
import os
import sys

import click

import appliance


@click.command(help="Say which version this is, on which Python and platform.")
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
def version(*, as_json: bool) -> int:
    facts = {
        "version": appliance.__version__,
        "python": ".".join(map(str, sys.version_info[:3])),
        "commit": getattr(appliance, "__commit__", None),  # written by the build of the executable
        "platform": _platform(),
    }
    if as_json:
        click.echo(json.dumps(facts))
        return 0
    commit = f", commit {facts['commit']}" if facts["commit"] else ""
    click.echo(f"appliance {facts['version']} (Python {facts['python']}, {facts['platform']}{commit})")
    return 0


def _platform() -> str:
    name = os.uname()
    return f"{name.sysname}-{name.machine}".lower()
