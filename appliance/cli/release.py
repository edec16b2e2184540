"""`appliance release`: freeze, verify and compare releases; the work is `appliance.verification`'s."""

# ruff: noqa: PLC0415 -- what is not called costs nothing

import argparse
import json
import os
from collections.abc import Mapping
from functools import partial
from typing import Any

import click

from appliance.cli.passing import PassThrough


@click.group(help="Write down what a release is made of and how it stands here; check that offline; compare two.")
def release() -> None:
    pass


@click.pass_context
def _freeze(ctx: click.Context) -> int:
    from appliance.verification.release import freeze

    return freeze(ctx.args)


@click.pass_context
def _verify(ctx: click.Context) -> int:
    from appliance.verification.release import verify

    return verify(ctx.args)


@click.pass_context
def _diff(ctx: click.Context) -> int:
    from appliance.verification.release import diff

    return diff(ctx.args)


def _parser(name: str) -> argparse.ArgumentParser:
    from appliance.verification.release import PARSERS

    return PARSERS[name]()


for _name, _callback, _help in (
    ("freeze", _freeze, "Write manifest, bills of materials and a deployment record."),
    ("verify", _verify, "Find the first difference, offline."),
    ("diff", _diff, "Say what differs between two."),
):
    release.add_command(PassThrough(_name, load_parser=partial(_parser, _name), callback=_callback, short_help=_help))


@release.command(
    short_help="The digests of what this program defines.",
    help="Print the SHA-256 of what this program defines: tools, aliases, agents, the settings' schema, the OpenAPI "
    "document. As shipped; with --effective as this box's configuration has them.",
)
@click.option("--effective", is_flag=True, help="With this box's configuration.")
def definitions(*, effective: bool) -> int:
    click.echo(json.dumps(_digests(os.environ if effective else None), indent=1, sort_keys=True))
    return 0


def _digests(environ: Mapping[str, str] | None) -> dict[str, Any]:
    from pathlib import Path

    from appliance import __version__
    from appliance.config.loading import ETC, load_configuration
    from appliance.config.settings import Settings
    from appliance.protocol.canonical import canonical_json, compact_json, sha256_hex
    from appliance.protocol.openapi import openapi_document
    from appliance.toolbus.registry import described_tools

    nothing = {"APPLIANCE_ENV_FILE": os.devnull, "STATE_DIRECTORY": "/nonexistent"}
    given = nothing if environ is None else environ
    configuration = load_configuration(given, etc=ETC if environ is not None else Path("/nonexistent"))
    registry = configuration.tool_registry
    defined = {
        "tools": described_tools(configuration.settings, registry),
        "aliases": {name: _fields(alias) for name, alias in configuration.aliases.items()},
        "agents": {name: spec.hashed() for name, spec in configuration.agents.items()},
        "settings_schema": Settings.model_json_schema()["properties"],  # beside them, docstrings: not in an executable
    }
    return {
        **{name: sha256_hex(canonical_json(value).encode()) for name, value in defined.items()},
        "openapi": sha256_hex(compact_json(openapi_document(__version__))),
        "tool_registry": registry.sha256 if registry is not None else None,
    }


def _fields(value: Any) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(value)
