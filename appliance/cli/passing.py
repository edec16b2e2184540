"""Passing: commands that are programs of `appliance.verification`, which read their arguments themselves."""

import argparse
from collections.abc import Callable, Iterator
from typing import Any

import click
from click.shell_completion import CompletionItem


class PassThrough(click.Command):
    """A command that hands on every argument as it came, `--help` and `--` included.

    `load_parser`: what reads them; it is asked for what completion and the man page say of the options.
    """

    def __init__(self, name: str, *, load_parser: Callable[[], argparse.ArgumentParser], **attributes: Any) -> None:
        super().__init__(name, **attributes)
        self.load_parser = load_parser

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.args = list(args)
        return ctx.args

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        if not incomplete.startswith("-"):
            return [CompletionItem(incomplete, type="file")]
        found = options_of(self.load_parser())
        return [CompletionItem(name, help=help_) for name, _, help_ in found if name.startswith(incomplete)]


def options_of(parser: argparse.ArgumentParser) -> Iterator[tuple[str, str, str]]:
    """Each option or argument: its name, what it takes ("" for a flag), and what it is for."""
    for action in parser._actions:
        takes = str(action.metavar or action.dest).upper() if action.nargs != 0 else ""
        name = action.option_strings[-1] if action.option_strings else takes
        yield name, takes if action.option_strings else "", action.help or ""
