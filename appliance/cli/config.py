"""`appliance config`: is the configuration good, and what does it come to. Secrets are never shown."""

import json
import os
import shlex
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import click

from appliance.config.agent_specs import specs_schema
from appliance.config.alias import Alias
from appliance.config.classes import BackendClass
from appliance.config.errors import ConfigError
from appliance.config.loading import Configuration, load_configuration
from appliance.config.policies import TokenPolicy
from appliance.config.shown import show_configuration, show_policy, show_settings
from appliance.config.tokens import TOKEN_FILE

EXIT_CONFIGURATION = 78  # EX_CONFIG of sysexits.h

_as_json = click.option("--json", "as_json", is_flag=True, help="As one JSON object.")


@click.group(help="Check or show the configuration that `appliance serve` would run with.")
def config() -> None:
    pass


@config.command(
    short_help="Say whether `appliance serve` would start.",
    help="Say whether `appliance serve` would start with this configuration: exit 0, or 78 and every mistake.",
)
@_as_json
def check(*, as_json: bool) -> int:
    try:
        configuration = load_configuration(os.environ)
    except ConfigError as error:
        _say_mistakes(error, as_json=as_json)
        return EXIT_CONFIGURATION
    if as_json:
        _echo_json({"ok": True, "errors": [], "warnings": list(configuration.warnings)})
        return 0
    for warning in configuration.warnings:
        click.echo(f"warning: {warning}")
    changed = sum(origin != "default" for origin in configuration.origins.values())
    click.echo(
        f"ok: {changed} of {len(configuration.origins)} settings set, {len(configuration.backends.classes)} classes, tokens: {_tokens(configuration)}"
    )
    return 0


@config.command(
    short_help="Show every setting and its origin.",
    help="Show every setting with its origin, the backend classes and the tokens' fingerprints.",
)
@_as_json
def show(*, as_json: bool) -> int:
    configuration = load_configuration(os.environ)
    if as_json:
        _echo_json(show_configuration(configuration))
        return 0
    for name, setting in show_settings(configuration).items():
        click.echo(f"{name} = {_text(setting['value'])}   ({setting['origin']})")
    click.echo(f"\nstate directory: {configuration.state_dir}")
    click.echo(f"tokens: {_tokens(configuration)}")
    for token in configuration.tokens:
        click.echo(f"  {token.fingerprint}{_policy_text(token.policy)}")
    click.echo("classes:")
    for backend_class in configuration.backends.classes.values():
        click.echo(f"  {_class_text(backend_class)}")
    for old, name in configuration.backends.legacy_mapping.items():
        click.echo(f"  {old} means {name}")
    click.echo("aliases:")
    for alias in configuration.aliases.values():
        click.echo(f"  {_alias_text(alias)}")
    if (registry := configuration.tool_registry) is not None:
        click.echo(f"tools of {registry.path} (SHA-256 {registry.sha256}):")
        for tool in registry.tools:
            click.echo(f"  {tool.name} {tool.version}: {shlex.join(tool.argv)}")
    click.echo("agents:")
    for name, spec in configuration.agents.items():
        click.echo(f"  {name}: {spec.model}, tier {spec.tier}")
    for warning in configuration.warnings:
        click.echo(f"warning: {warning}")
    return 0


@config.command(
    short_help="Print the JSON Schema of a configuration file.",
    help="Print the JSON Schema (2020-12) of a configuration file; `agents`: AGENT_SPECS_PATH.",
)
@click.argument("file", type=click.Choice(["agents"]))
def schema(file: str) -> int:
    _echo_json({"agents": specs_schema}[file]())
    return 0


def _say_mistakes(error: ConfigError, *, as_json: bool) -> None:
    if as_json:
        _echo_json({"ok": False, "errors": [asdict(mistake) for mistake in error.mistakes], "warnings": []})
        return
    for mistake in error.mistakes:
        click.echo(f"appliance: {mistake}", err=True)


def _text(value: object) -> str:
    """A value as an env file has it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return ",".join(map(str, value))
    if isinstance(value, float):
        return f"{value:g}"
    return "" if value is None else str(value)


def _tokens(configuration: Configuration) -> str:
    if configuration.tokens:
        return f"{len(configuration.tokens)}, from {configuration.token_source}"
    return f"none set: `appliance serve` makes one in {configuration.state_dir / TOKEN_FILE}"


def _policy_text(policy: TokenPolicy) -> str:
    return _pairs_text(show_policy(policy))


def _pairs_text(pairs: Mapping[str, Any]) -> str:
    return "".join(f"  {name}={_text(value)}" for name, value in pairs.items())


def _class_text(backend_class: BackendClass) -> str:
    limits = ", ".join(f"{name} {backend_class.limit(name)}" for name in sorted(backend_class.capabilities))
    address = f" at {backend_class.base_url}" if backend_class.base_url else ""
    address = address if backend_class.configured else ", not configured"
    needed = "required" if backend_class.required else "not required"
    return f"{backend_class.name}: {backend_class.provider}{address} ({limits}; {needed})"


def _alias_text(alias: Alias) -> str:
    limits = {
        name: value
        for name, value in asdict(alias).items()
        if name not in {"name", "backend_class", "model"} and value is not None
    }
    return f"{alias.name}: {alias.backend_class}:{alias.model}{_pairs_text(limits)}"


def _echo_json(value: Mapping[str, Any]) -> None:
    click.echo(json.dumps(value, indent=2))
