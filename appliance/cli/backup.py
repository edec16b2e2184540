"""`appliance backup`: configuration and state in one file, and back."""

import json
from pathlib import Path

import click

from appliance.host.backup import create_backup, default_name, restore_backup
from appliance.host.installed import installed_machine


@click.group(help="Save configuration, tokens and state in one file, or put them back (root).")
def backup() -> None:
    pass


@backup.command(
    short_help="Write an archive.", help="Write configuration, tokens and state into FILE; the service runs on."
)
@click.argument("file", type=click.Path(path_type=Path), required=False)
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
def create(*, file: Path | None, as_json: bool) -> int:
    made = create_backup(installed_machine(), (file or Path(default_name())).absolute())
    if as_json:
        click.echo(json.dumps({"file": str(made.file), "files": made.files, "bytes": made.bytes}))
        return 0
    click.echo(f"{made.file}: {made.files} files, {made.bytes} bytes; it holds tokens, keep it private")
    return 0


@backup.command(
    short_help="Put an archive back.", help="Replace configuration, tokens and state by those in FILE, and restart."
)
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
def restore(*, file: Path, as_json: bool) -> int:
    count = restore_backup(installed_machine(), file, lambda line: click.echo(f"{line} ...", err=as_json))
    click.echo(json.dumps({"files": count}) if as_json else f"{count} files are back, and the service runs with them")
    return 0
