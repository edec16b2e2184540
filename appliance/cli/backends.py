"""`appliance backends`: which classes there are, what stands behind them, and what else runs on this machine."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import click
import trio

from appliance.backends.looking import Looked, Question, look_at_all
from appliance.backends.probing import Finding, identify, probe
from appliance.config.classes import BackendClass, capabilities_of, default_health
from appliance.config.loading import Configuration, load_configuration

DISCOVER_TIMEOUT_S = 3.0
SHOWN_MODELS = 5

# Where the servers listen if nobody has told them otherwise (their own documentation).
_PORTS = (7860, 7861, 8188, 9090, 1234, 11434, 8080, 8000)
_LOOPBACK = ("127.0.0.1",)

_as_json = click.option("--json", "as_json", is_flag=True, help="As one JSON object.")


@click.group(help="Show the backend classes, ask what stands behind them, and find servers on this machine.")
def backends() -> None:
    pass


@backends.command("list", short_help="Show the configured classes.", help="Show the configured classes.")
@_as_json
def list_classes(*, as_json: bool) -> int:
    classes = load_configuration(os.environ).backends.classes.values()
    if as_json:
        _echo_json({"backends": [_listed(one) for one in classes]})
        return 0
    for one in classes:
        click.echo(_list_line(one))
    return 0


@backends.command(
    "probe",
    short_help="Ask every configured class what it is.",
    help="Ask every configured class what it is, its version, its models and what its cancel can do; where the class has "
    "a login, with that. Exit 1 if one does not answer, wants a login, or is something else than its provider says.",
)
@_as_json
def probe_classes(*, as_json: bool) -> int:
    configuration = load_configuration(os.environ)
    classes = [one for one in configuration.backends.classes.values() if one.configured]
    timeout_s = configuration.settings.health_check_timeout_sec
    looked = _look(configuration, classes, lambda one, upstream: probe(one, upstream, timeout_s))
    if as_json:
        _echo_json({"backends": [_found(item) for item in looked]})
    else:
        for item in looked:
            click.echo(_probe_line(item))
    return 0 if all(item.finding is not None and item.finding.wants is None for item in looked) else 1


@backends.command(
    "discover",
    short_help="Find servers and write them down for backends.yaml.",
    help="Try the usual ports on this machine, or on the hosts that are named, and print what answers as entries of "
    "backends.yaml. Exit 1 if nothing does.",
)
@click.option("--host", "hosts", multiple=True, help="Ask this host instead; may be given several times.")
@_as_json
def discover(*, hosts: tuple[str, ...], as_json: bool) -> int:
    configuration = load_configuration(os.environ)
    addresses = [_address(host, port) for host in hosts or _LOOPBACK for port in _PORTS]
    looked = _look(configuration, addresses, lambda one, upstream: identify(one, upstream, DISCOVER_TIMEOUT_S))
    found = _named([item for item in looked if item.finding is not None])
    if as_json:
        _echo_json({"backends": [{**_found(item), "name": name} for name, item in found.items()]})
    else:
        click.echo(_yaml(found) if found else f"nothing answers on the usual ports of {', '.join(hosts or _LOOPBACK)}")
    return 0 if found else 1


def _look(configuration: Configuration, classes: Sequence[BackendClass], question: Question) -> list[Looked]:
    return trio.run(look_at_all, configuration.settings, classes, question)


def _address(host: str, port: int) -> BackendClass:
    """An address that nobody has named a provider for: what it is, is the question."""
    bracketed = f"[{host}]" if ":" in host else host
    return BackendClass(
        name=f"{host}:{port}",
        base_url=f"http://{bracketed}:{port}",
        provider="openai",
        capabilities=frozenset(),
        limits={},
        health=default_health("openai"),
    )


def _named(looked: Sequence[Looked]) -> dict[str, Looked]:
    """A name for each: the first that draws is `gpu_heavy`, as IMAGES_BACKEND_CLASS has it; the others their provider's."""
    named: dict[str, Looked] = {}
    for item in looked:
        provider = _finding(item).provider
        draws = "images" in capabilities_of(provider)
        name: str = "gpu_heavy" if draws and "gpu_heavy" not in named else provider
        if name in named:
            name = f"{provider}_{len(named)}"
        named[name] = item
    return named


def _yaml(found: Mapping[str, Looked]) -> str:
    lines = ["backends:"]
    for name, item in found.items():
        finding = _finding(item)
        capabilities = sorted(_offered(finding))
        limits = ", ".join(f"{capability}: 1" for capability in capabilities)
        lines += [
            f"  {name}:",
            f"    base_url: {json.dumps(item.one.base_url)}",
            f"    provider: {finding.provider}",
            f"    description: {json.dumps(_title(finding))}",
            "    required: false",
            f"    supported_capabilities: [{', '.join(capabilities)}]",
            f"    concurrency_limits: {{{limits}}}",
            *([f"    # wants {finding.wants}"] if finding.wants is not None else []),
        ]
    if "gpu_heavy" in found:
        lines.append(f"# and set IMAGES_BACKEND=http_{_finding(found['gpu_heavy']).provider}, so that it draws")
    return "\n".join(lines)


def _offered(finding: Finding) -> frozenset[str]:
    """What such a server does as a rule; an OpenAI-style one says nothing of it, and most of them chat and embed."""
    return frozenset({"chat", "embeddings"}) if finding.provider == "openai" else capabilities_of(finding.provider)


def _finding(item: Looked) -> Finding:
    if item.finding is None:
        raise AssertionError("unreachable: only what answered is named")
    return item.finding


def _listed(one: BackendClass) -> dict[str, Any]:
    return {
        "name": one.name,
        "provider": one.provider,
        "base_url": one.base_url,
        "configured": one.configured,
        "required": one.required,
        "limits": {capability: one.limit(capability) for capability in sorted(one.capabilities)},
        "on_disconnect": one.on_disconnect,
        "description": one.description,
    }


def _found(item: Looked) -> dict[str, Any]:
    finding = asdict(item.finding) if item.finding is not None else {"provider": item.one.provider}
    return {
        "name": item.one.name,
        "base_url": item.one.base_url,
        "ok": item.finding is not None and item.finding.wants is None,
        "error": item.error,
        **finding,
    }


def _list_line(one: BackendClass) -> str:
    limits = ", ".join(f"{name} {one.limit(name)}" for name in sorted(one.capabilities))
    address = one.base_url or ("(a script)" if one.configured else "(not configured)")
    return f"{one.name}  {one.provider}  {address}  {limits}  on disconnect: {one.on_disconnect}"


def _probe_line(item: Looked) -> str:
    if item.finding is None:
        return f"{item.one.name}  FAIL  {item.error}"
    finding = item.finding
    if finding.wants is not None:
        return f"{item.one.name}  FAIL  {_title(finding)}; wants {finding.wants}"
    return f"{item.one.name}  OK  {_title(finding)}; models: {_models(finding)}; cancels: {finding.cancel}"


def _title(finding: Finding) -> str:
    return f"{finding.kind} {finding.version}" if finding.version else finding.kind


def _models(finding: Finding) -> str:
    shown = ", ".join(finding.models[:SHOWN_MODELS]) or "none"
    more = len(finding.models) - SHOWN_MODELS
    return f"{shown} and {more} more" if more > 0 else shown


def _echo_json(value: Mapping[str, Any]) -> None:
    click.echo(json.dumps(value, indent=2))
