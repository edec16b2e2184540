"""The man page: `packaging/appliance.1`, written from the table of commands. Runs in the project's own environment."""

import sys
from collections.abc import Iterator

import click

from appliance import __version__
from appliance.cli import COMMANDS
from appliance.cli.passing import PassThrough, options_of

from .files import replace_text
from .paths import PACKAGING

PAGE = PACKAGING / "appliance.1"

_EXIT_CODES = (
    ("0", "Done; what was asked for is so."),
    ("1", "Looked, and it is not: a check failed, something differs, a backend does not answer."),
    ("2", "Wrong usage."),
    ("3", "status: it is installed and does not run."),
    ("65-78", "As sysexits.h has them, 78 for a configuration that is not good: see docs/commands.md."),
    ("130", "Interrupted."),
)


def main() -> int:
    """Write the page."""
    replace_text(PAGE, manpage())
    return 0


def manpage() -> str:
    """The page, the same wherever it is made."""
    lines = [
        '.\\" Made by `python3 tools/dev.py man`; do not edit.',
        f'.TH APPLIANCE 1 "" "appliance {__version__}" "User Commands"',
        ".SH NAME",
        "appliance \\- a local AI gateway",
        ".SH SYNOPSIS",
        ".B appliance",
        ".I command",
        "[options]",
        ".SH DESCRIPTION",
        "One file that turns a box on a LAN into an AI gateway with an OpenAI-style address.",
        "A GPU slot is held exactly as long as it is needed.",
        ".SH COMMANDS",
    ]
    for name, row in COMMANDS.items():
        lines += _command(name, row.load())
    lines += [".SH ENVIRONMENT", "Every setting is an environment variable, or a line of the file that"]
    lines += [".B APPLIANCE_ENV_FILE", "names:", ".B appliance config show", "lists them all."]
    lines += [".SH FILES", "/etc/appliance/, /var/lib/appliance/", ".SH EXIT STATUS"]
    for code, meaning in _EXIT_CODES:
        lines += [".TP", f".B {code}", _text(meaning)]
    return "\n".join([*lines, ".SH SEE ALSO", "systemctl(1), journalctl(1)"]) + "\n"


def _command(name: str, command: click.Command) -> Iterator[str]:
    if isinstance(command, click.Group):
        for child, one in command.commands.items():
            yield from _command(f"{name} {child}", one)
        return
    options = list(_options(command))
    arguments = " ".join(argument for argument, takes, _ in options if not argument.startswith("-") and not takes)
    yield f".SS appliance {_text(f'{name} {arguments}'.strip())}"
    if said := command.help or command.short_help or (COMMANDS[name].help if name in COMMANDS else ""):
        yield _text(said)
    for option, takes, help_ in options:
        if option.startswith("-"):
            yield from (".TP", f".B {_text(option)}" + (f" \\fI{_text(takes)}\\fR" if takes else ""), _text(help_))


def _options(command: click.Command) -> Iterator[tuple[str, str, str]]:
    """Name, what it takes, what it is for."""
    if isinstance(command, PassThrough):
        yield from (row for row in options_of(command.load_parser()) if row[0] != "--help")
        return
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            takes = "" if parameter.is_flag else (parameter.metavar or parameter.human_readable_name).upper()
            yield parameter.opts[-1], takes, parameter.help or ""
        else:
            yield parameter.human_readable_name, "", ""


def _text(text: str) -> str:
    """As roff takes it: no line begins with a control character, a dash is a dash."""
    escaped = " ".join(text.split()).replace("%%", "%").replace("%(default)s", "see --help")
    escaped = escaped.replace("%(default)g s", "see --help").replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped


if __name__ == "__main__":
    sys.exit(main())
