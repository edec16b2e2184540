"""Shown: a configuration as an operator may see it, and send to others: no secret is in it."""

from dataclasses import asdict, replace
from typing import Any

from pydantic import SecretStr

from appliance.config.classes import BackendClass
from appliance.config.loading import Configuration
from appliance.config.policies import TokenPolicy
from appliance.config.tokens import Token
from appliance.config.tool_registry import ToolRegistry

REDACTED = "***"


def show_configuration(configuration: Configuration) -> dict[str, Any]:
    """Everything as JSON has it: settings with their origins, classes, aliases, and of a secret only whether there is one."""
    return {
        "settings": show_settings(configuration),
        "state_dir": str(configuration.state_dir),
        "tokens": {
            "count": len(configuration.tokens),
            "source": configuration.token_source,
            "tokens": [_token(token) for token in configuration.tokens],
        },
        "backends": {name: _class(item) for name, item in configuration.backends.classes.items()},
        "legacy_mapping": dict(configuration.backends.legacy_mapping),
        "aliases": {name: asdict(alias) for name, alias in configuration.aliases.items()},
        "tool_registry": _registry(configuration.tool_registry),
        "warnings": list(configuration.warnings),
    }


def _registry(registry: ToolRegistry | None) -> dict[str, Any] | None:
    if registry is None:
        return None
    tools = [{"name": tool.name, "version": tool.version, "argv": list(tool.argv)} for tool in registry.tools]
    return {"path": str(registry.path), "sha256": registry.sha256, "tools": tools}


def show_settings(configuration: Configuration) -> dict[str, dict[str, Any]]:
    """Each setting's value and origin, by its name in the environment."""
    settings = configuration.settings
    return {
        field.upper(): {"value": _plain(getattr(settings, field)), "origin": configuration.origins[field]}
        for field in type(settings).model_fields
    }


def _plain(value: object) -> Any:
    """A value as JSON has it; of a secret only whether there is one."""
    if isinstance(value, SecretStr):
        return REDACTED if value.get_secret_value() else ""
    if isinstance(value, tuple | frozenset):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, bool | int | float) else str(value)


def _token(token: Token) -> dict[str, Any]:
    return {"fingerprint": token.fingerprint, "policy": show_policy(token.policy)}


def show_policy(policy: TokenPolicy) -> dict[str, Any]:
    """What it narrows."""
    return {name: _plain(value) for name in TokenPolicy.__slots__ if (value := getattr(policy, name)) not in (None, ())}


def _class(backend_class: BackendClass) -> dict[str, Any]:
    capabilities = sorted(backend_class.capabilities)
    return {
        **asdict(replace(backend_class, script=None, login=None)),
        "login": backend_class.login and backend_class.login.user,
        "script": backend_class.script and list(backend_class.script.names),
        "capabilities": capabilities,
        "limits": {capability: backend_class.limit(capability) for capability in capabilities},
    }
