"""`appliance version`: which program this is. Imports nothing heavy: scripts call it often."""

import json
import os
import platform
from dataclasses import asdict
from typing import Any

import click

import appliance
from appliance.host.buildinfo import load_buildinfo


@click.command(help="Say which version this is, on which Python and platform; of the executable, what it is made of.")
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
def version(*, as_json: bool) -> int:
    build = load_buildinfo()
    facts: dict[str, Any] = {
        "version": appliance.__version__,
        "python": platform.python_version(),
        "commit": build.commit if build else None,
        "platform": _platform(),
        "build": asdict(build) if build else None,
    }
    if as_json:
        click.echo(json.dumps(facts))
        return 0
    commit = f", commit {build.commit[:12]}{'+' if build.changed else ''}" if build and build.commit else ""
    click.echo(f"appliance {facts['version']} (Python {facts['python']}, {facts['platform']}{commit})")
    return 0


def _platform() -> str:
    name = os.uname()
    return f"{name.sysname}-{name.machine}".lower()
