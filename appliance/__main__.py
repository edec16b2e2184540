"""Entry of `appliance`, of `python -m appliance` and of the executable: run a command, turn its end into an exit code."""

import os
import sys
from collections.abc import Sequence

import click

from appliance.cli import appliance
from appliance.config.errors import ConfigError
from appliance.host.failures import HostFailure

EXIT_CONFIGURATION = 78  # EX_CONFIG of sysexits.h
EXIT_INTERRUPTED = 130
EXIT_PIPE = 1  # as click has it


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Bad configuration: 78 and one line on stderr; wrong usage: 2; Ctrl-C: 130, quietly; what
    could not be done to the machine: a code of sysexits.h and what to do."""
    try:
        code = _run(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
    except BrokenPipeError:  # `appliance config show | head -1`: what is left goes nowhere, also at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_PIPE
    except (KeyboardInterrupt, click.Abort):
        return EXIT_INTERRUPTED
    return code


def _run(argv: Sequence[str]) -> int:
    try:
        return int(appliance.main(list(argv), prog_name="appliance", standalone_mode=False) or 0)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except ConfigError as error:
        click.echo(f"appliance: {error.one_line()}", err=True)
        return EXIT_CONFIGURATION
    except HostFailure as failure:
        click.echo(f"appliance: {failure}", err=True)
        return failure.code


if __name__ == "__main__":
    sys.exit(main())
