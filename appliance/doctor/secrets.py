"""Secrets: everything here that must not leave the box, and texts without any of it."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from appliance.config.environment import read_variables
from appliance.config.errors import ConfigError, Findings
from appliance.config.loading import ETC
from appliance.config.places import choose_state_dir
from appliance.config.shown import REDACTED
from appliance.config.tokens import TOKEN_FILE
from appliance.doctor.patient import Patient

MIN_CHARACTERS = 4  # a shorter one is part of ordinary words; settings that hold one are shown as *** anyway

_NAMES = re.compile(r"TOKEN|PASSWORD|PASSWD|SECRET|KEY|CREDENTIAL|AUTH|COOKIE")
_PLACES = re.compile(r"_(PATH|FILE|DIR|DIRECTORY)$")
_WORD = re.compile(r"[^\s,;:\"'{}\[\]]+")
_QUERY = re.compile(r"([?&][^=&\s]{1,64}=)[^&\s\"]+")
_LOGIN = re.compile(r"//[^/\s@]+@")
_BEARER = re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{12,}")  # `basic settings` is none


def find_secrets(patient: Patient) -> frozenset[str]:
    """Of the environment and the env file, whatever is named like one; of the token files, every line."""
    found = set(_of_variables(patient.environ)) | set(_of_files(patient))
    if not isinstance(patient.configuration, ConfigError):
        found |= {token.secret.decode() for token in patient.configuration.tokens}
        for value in dict(patient.configuration.settings).values():
            if isinstance(value, SecretStr):
                found.update(_parts(value.get_secret_value()))
    return frozenset(text for text in found if len(text) >= MIN_CHARACTERS)


def without_secrets(value: Any, secrets: frozenset[str]) -> Any:
    """The same value, at every depth and in its keys too, without secrets, logins in URLs and values of queries."""
    if isinstance(value, str):
        return _scrub(value, secrets)
    if isinstance(value, Mapping):
        return {_scrub(str(key), secrets): without_secrets(item, secrets) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_secrets(item, secrets) for item in value]
    return value


def _scrub(text: str, secrets: frozenset[str]) -> str:
    for secret in sorted(secrets, key=len, reverse=True):  # one may be a part of another
        text = text.replace(secret, REDACTED)
    text = _LOGIN.sub(f"//{REDACTED}@", text)
    text = _BEARER.sub(rf"\1 {REDACTED}", text)
    return _QUERY.sub(rf"\1{REDACTED}", text)


def _of_variables(environ: Mapping[str, str]) -> Iterator[str]:
    for name, variable in read_variables(environ, ETC, Findings.none()).items():
        if _NAMES.search(name.upper()) and not _PLACES.search(name.upper()):
            yield from _parts(variable.text)


def _of_files(patient: Patient) -> Iterator[str]:
    state_dir = choose_state_dir(patient.environ, Findings.none())
    named = [state_dir / TOKEN_FILE]
    if credentials := patient.environ.get("CREDENTIALS_DIRECTORY"):
        named.append(Path(credentials) / "tokens")
    variables = read_variables(patient.environ, ETC, Findings.none())
    if "GATEWAY_TOKEN_FILE" in variables:
        named.append(Path(variables["GATEWAY_TOKEN_FILE"].text).expanduser())
    for path in named:
        try:
            text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
        except OSError:
            continue  # not for our eyes: nothing of it gets into the report either
        for line in text.splitlines():
            yield from _parts(line)


def _parts(text: str) -> Iterator[str]:
    """The whole, and each of several in a list or an object."""
    if text.strip():
        yield text.strip()
    if re.search(r"[,{\[]", text):
        yield from (word for word in _WORD.findall(text) if len(word) >= 8)  # `true` is no secret
