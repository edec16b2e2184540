"""Passing: commands that are programs of `appliance.verification`, which read their arguments themselves."""

import click


class PassThrough(click.Command):
    """A command that hands on every argument as it came, `--help` and `--` included."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.args = list(args)
        return ctx.args
