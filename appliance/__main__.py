"""Entry of `appliance`, of `python -m appliance` and of the executable: run a command, turn its end into an exit code."""

import os
import sys
from collections.abc import Sequence

from appliance.config.errors import ConfigError
from appliance.host.failures import HostFailure
from appliance.starting import start

EXIT_CONFIGURATION = 78  # EX_CONFIG of sysexits.h
EXIT_INTERRUPTED = 130
EXIT_PIPE = 1  # as click has it


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Bad configuration: 78 and one line on stderr; wrong usage: 2; Ctrl-C: 130, quietly; what
    could not be done to the machine: a code of sysexits.h and what to do."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        # Click is 1.3 MB for as long as a gateway runs, and has nothing to parse here.
        code = start() if arguments == ["serve"] else _run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # `appliance config show | head -1`: what is left goes nowhere, also at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_PIPE
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except ConfigError as error:
        print(f"appliance: {error.one_line()}", file=sys.stderr)
        return EXIT_CONFIGURATION
    except HostFailure as failure:
        print(f"appliance: {failure}", file=sys.stderr)
        return failure.code
    return code


def _run(arguments: list[str]) -> int:
    import click  # noqa: PLC0415 -- see main

    from appliance.cli import appliance  # noqa: PLC0415 -- see main

    try:
        return int(appliance.main(arguments, prog_name="appliance", standalone_mode=False) or 0)
    except click.Abort:
        return EXIT_INTERRUPTED
    except click.ClickException as error:
        error.show()
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
