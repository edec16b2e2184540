"""Environment: which text each setting has and where it comes from: the process, the env file, or nowhere."""

import difflib
import io
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from dotenv.parser import Binding, parse_stream

from appliance.config.errors import Findings

ENV_FILE_VARIABLE = "APPLIANCE_ENV_FILE"
ENVIRONMENT = "environment"
MAX_ENV_FILE_BYTES = 1_000_000

_SECRET_NAMES = (
    "GATEWAY_BEARER_TOKEN",
    "GATEWAY_BEARER_TOKENS",
    "GATEWAY_TOKEN_POLICIES_JSON",
    "IMAGES_A1111_PASSWORD",
    "IMAGES_INVOKEAI_PASSWORD",
)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# Only names that begin like ours are looked at: other programs and later features have theirs.
_OUR_PREFIXES = (
    "GATEWAY_", "OBSERVABILITY_", "PUBLIC_", "IP_ALLOW", "TRUST_PROXY", "MAX_REQUEST", "MAX_CONNECTION",
    "REQUEST_LOG_", "METRICS_", "BACKEND_", "BACKENDS_", "OLLAMA_BASE", "MLX_BASE", "HEALTH_CHECK_",
    "IMAGE_", "IMAGES_", "UI_IMAGE_", "UI_IMAGES_", "DRAIN_", "HEAD_TIMEOUT", "BODY_", "IDLE_TIMEOUT", "WRITE_TIMEOUT",
    "DEFAULT_BACKEND", "OLLAMA_MODEL_", "MLX_MODEL_", "MODEL_ALIAS", "MODELS_", "ROUTER_", "MOCK_CHAT", "TOOLS_", "AGENT_",
)  # fmt: skip
_NEAR = 0.84  # of difflib's ratio: a slipped letter or a lost S, not another word


@dataclass(frozen=True, slots=True)
class Text:
    """The text of one variable and its origin: `environment` or `<env file>:<line>`."""

    text: str
    origin: str


def read_variables(environ: Mapping[str, str], root: Path, findings: Findings) -> dict[str, Text]:
    """All variables, those of the process before those of the env file; an empty one counts as not set."""
    variables = _read_env_file(environ, root, findings)
    variables.update({name: Text(text, ENVIRONMENT) for name, text in environ.items() if text})
    return variables


def warn_of_near_names(variables: Iterable[str], known: Iterable[str], findings: Findings) -> None:
    ours = sorted(known)
    for name in sorted(variables):
        if name in ours or not name.startswith(_OUR_PREFIXES):
            continue
        if near := difflib.get_close_matches(name, ours, n=1, cutoff=_NEAR):
            findings.warn(name, f"is not a setting: did you mean {near[0]}?")


def _read_env_file(environ: Mapping[str, str], root: Path, findings: Findings) -> dict[str, Text]:
    named = environ.get(ENV_FILE_VARIABLE, "")
    path = Path(named) if named else root / "appliance.env"
    try:
        with path.open("rb") as file:
            data = file.read(MAX_ENV_FILE_BYTES + 1)
            mode = os.fstat(file.fileno()).st_mode
        text = data.decode("utf-8-sig")
    except FileNotFoundError:
        if named:
            findings.refuse(ENV_FILE_VARIABLE, f"{path} does not exist: name an existing file, or unset it")
        return {}
    except OSError as error:
        other = f"make it readable, or set {ENV_FILE_VARIABLE} to another file"
        findings.refuse(str(path), f"cannot be read ({error.strerror}): {other}")
        return {}
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        findings.refuse(f"{path}:{line}", "is not UTF-8: save the file as UTF-8")
        return {}
    if len(data) > MAX_ENV_FILE_BYTES or "\0" in text:
        findings.refuse(str(path), "is no env file: write NAME=value lines")
        return {}
    found = _parse_env_file(path, text, findings)
    if mode & 0o077 and any(name in found for name in _SECRET_NAMES):
        findings.warn(str(path), f"holds secrets, and others may read it: run `chmod 600 {path}`")
    return found


def _parse_env_file(path: Path, text: str, findings: Findings) -> dict[str, Text]:
    """Quotes and escapes as python-dotenv reads them; `${NAME}` stays as it is. A line is never repeated: secrets."""
    found: dict[str, Text] = {}
    for binding in parse_stream(io.StringIO(text, newline="")):
        where = f"{path}:{_line(binding)}"
        if not binding.error and binding.key is None:
            continue  # blank or a comment
        if binding.error or binding.key is None or binding.value is None or not _NAME.fullmatch(binding.key):
            findings.refuse(where, "is no setting: write NAME=value, with matching quotes")
            continue
        if binding.key in found:
            findings.warn(where, f"{binding.key} is set again: this line counts, {found[binding.key].origin} does not")
        found[binding.key] = Text(binding.value, where)
    return {name: value for name, value in found.items() if value.text}


def _line(binding: Binding) -> int:
    """dotenv counts the blank lines before a binding as its own."""
    text = binding.original.string
    blank = text[: len(text) - len(text.lstrip())]
    return binding.original.line + len(re.findall(r"\r\n|\n|\r", blank))
