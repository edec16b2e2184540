"""Loading: from the environment and the files it points to, to one frozen configuration, or to all its mistakes."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from appliance.config.agent_specs import AgentSpec, read_agent_specs
from appliance.config.alias import Alias
from appliance.config.aliases import built_in_aliases, read_aliases
from appliance.config.backends import resolve_backends
from appliance.config.checks import check_settings
from appliance.config.classes import Backends
from appliance.config.environment import read_variables, warn_of_near_names
from appliance.config.errors import Findings
from appliance.config.models import choose_default_backend
from appliance.config.places import choose_state_dir, place_paths
from appliance.config.reading import read_settings
from appliance.config.settings import Settings
from appliance.config.tokens import Token
from appliance.config.tokensources import collect_tokens
from appliance.config.tool_registry import ToolRegistry, read_tool_registry
from appliance.config.toolroots import check_file_roots

ETC = Path("/etc/appliance")


@dataclass(frozen=True, slots=True)
class Configuration:
    """Everything that was configured, checked together.

    `origins`: for each field of `settings`: `default`, `environment`, `<env file>:<line>` or `found in <directory>`.
    `aliases`: by name in lower case, the built-in ones among them. `tokens`: may be empty on a loopback bind.
    `tool_registry`: None where there is no file. `warnings`: lines for the operator, without secrets.
    """

    settings: Settings
    origins: Mapping[str, str]
    backends: Backends
    aliases: Mapping[str, Alias]
    agents: Mapping[str, AgentSpec]
    tokens: tuple[Token, ...]
    token_source: str | None
    tool_registry: ToolRegistry | None
    state_dir: Path
    warnings: tuple[str, ...]


def load_configuration(environ: Mapping[str, str], *, etc: Path = ETC) -> Configuration:
    """Read, then check everything that can be checked without listening. Raises ConfigError with every mistake."""
    findings = Findings.none()
    variables = read_variables(environ, etc, findings)
    warn_of_near_names(variables, (field.upper() for field in Settings.model_fields), findings)
    state_dir = choose_state_dir(environ, findings)
    given = place_paths(read_settings(variables, findings), environ, state_dir, etc)
    check_settings(given, findings)
    check_file_roots(given, environ, state_dir=state_dir, etc=etc, findings=findings)
    tokens = collect_tokens(given, environ, findings)
    texts = {name: variable.text for name, variable in variables.items()}
    backends = resolve_backends(given, texts, findings)
    aliases = read_aliases(given, backends, findings)
    tool_registry = read_tool_registry(given, findings)
    given = choose_default_backend(given, backends, aliases, findings)
    agents = read_agent_specs(given, findings)
    findings.stop()
    return Configuration(
        settings=given.settings,
        origins=given.origins,
        backends=backends,
        aliases={**built_in_aliases(given.settings.default_backend, backends), **aliases},
        agents=agents,
        tokens=tokens.tokens,
        token_source=tokens.source,
        tool_registry=tool_registry,
        state_dir=state_dir,
        warnings=tuple(findings.warnings),
    )
