"""`appliance completion`: what a shell needs to complete commands and options, to be kept in a file."""

import click
from click.shell_completion import ShellComplete, get_completion_class

PROGRAM = "appliance"
VARIABLE = "_APPLIANCE_COMPLETE"  # click's own name for it: what the script sets when it asks the program

SHELLS = ("bash", "zsh", "fish")


@click.command(
    "completion",
    help="Print the completion of a shell: for bash into /etc/bash_completion.d/appliance, for zsh into a file "
    "_appliance in a folder of $fpath, for fish into ~/.config/fish/completions/appliance.fish.",
)
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> int:
    click.echo(completion_script(shell))
    return 0


def completion_script(shell: str) -> str:
    """The same text on every machine. Click would first ask the shell for its version, which may not be here."""
    made = get_completion_class(shell)
    if made is None:
        raise click.UsageError(f"click completes no {shell}")
    return ShellComplete.source(made(click.Command(PROGRAM), {}, PROGRAM, VARIABLE))
