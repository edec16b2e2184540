"""Token sources: which tokens are configured, checked, each with its policy. A token is named by its number."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from appliance.config.errors import Findings
from appliance.config.policies import PolicyMistake, TokenPolicy, parse_policies, read_policy
from appliance.config.reading import Given
from appliance.config.tokens import (
    MIN_TOKEN_CHARACTERS,
    Token,
    TokenMistake,
    check_token,
    make_token,
    read_token_file,
)
from appliance.config.values import is_loopback, split_csv

CREDENTIAL = "tokens"
CREDENTIAL_SOURCE = "$CREDENTIALS_DIRECTORY/tokens"


@dataclass(frozen=True, slots=True)
class TokenSet:
    """The configured tokens and the one source that they came from; none at all: `source` None."""

    tokens: tuple[Token, ...]
    source: str | None


def collect_tokens(given: Given, environ: Mapping[str, str], findings: Findings) -> TokenSet:
    """The first source that is set counts: GATEWAY_BEARER_TOKENS, GATEWAY_BEARER_TOKEN, systemd's credential,
    GATEWAY_TOKEN_FILE. Another one beside it gets a warning, except that the first replaces the second by contract."""
    mistakes_before = len(findings.mistakes)
    texts, source = _choose_source(given, environ, findings)
    public = not is_loopback(given.settings.gateway_host)
    for number, text in enumerate(texts, start=1):
        try:
            check_token(text, min_characters=MIN_TOKEN_CHARACTERS if public else 1)
        except TokenMistake as mistake:
            findings.refuse(source or "", f"token {number} {mistake}")
    if len(set(texts)) < len(texts):
        findings.warn(source or "", "the same token is there twice")
    if public and not texts and len(findings.mistakes) == mistakes_before:
        findings.refuse(
            given.where("gateway_host"),
            f"{given.settings.gateway_host} is open to the network and there is no token: "
            "set GATEWAY_BEARER_TOKEN (make one with `openssl rand -hex 32`), or write 127.0.0.1",
        )
    policies = _read_policies(given, texts, findings)
    if len(findings.mistakes) > mistakes_before:
        return TokenSet((), source)
    return TokenSet(tuple(make_token(text, policies.get(text)) for text in dict.fromkeys(texts)), source)


def _choose_source(given: Given, environ: Mapping[str, str], findings: Findings) -> tuple[tuple[str, ...], str | None]:
    settings = given.settings
    files = _files(given, environ)
    for field in ("gateway_bearer_tokens", "gateway_bearer_token"):
        text = getattr(settings, field).get_secret_value()
        if not text:
            continue
        for source, _, _ in files:
            findings.warn(source, f"is not used, because {field.upper()} is set")
        if field == "gateway_bearer_token":
            return (text.strip(),), given.where(field)
        texts = split_csv(text)
        if not texts:
            findings.refuse(given.where(field), "holds no token: write tokens with commas between them, or unset it")
        return texts, given.where(field)
    for source, _, _ in files[1:]:
        findings.warn(source, f"is not used, because there is {files[0][0]}")
    return _read_file(*files[0], findings) if files else ((), None)


def _files(given: Given, environ: Mapping[str, str]) -> list[tuple[str, Path, bool]]:
    """Source, path and whether its mode must keep others out: systemd guards the credentials itself."""
    files: list[tuple[str, Path, bool]] = []
    directory = environ.get("CREDENTIALS_DIRECTORY", "")
    if directory and (Path(directory) / CREDENTIAL).is_file():
        files.append((CREDENTIAL_SOURCE, Path(directory) / CREDENTIAL, False))
    if given.settings.gateway_token_file is not None:
        files.append((given.where("gateway_token_file"), given.settings.gateway_token_file, True))
    return files


def _read_file(
    source: str, path: Path, must_be_private: bool, findings: Findings
) -> tuple[tuple[str, ...], str | None]:
    try:
        return read_token_file(path, must_be_private=must_be_private), source
    except TokenMistake as mistake:
        findings.refuse(source, f"{path} {mistake}")
    except OSError as error:
        findings.refuse(source, f"{path} cannot be read ({error.strerror}): name a readable file")
    return (), source


def _read_policies(given: Given, tokens: tuple[str, ...], findings: Findings) -> dict[str, TokenPolicy]:
    text = given.settings.gateway_token_policies_json.get_secret_value()
    where = given.where("gateway_token_policies_json")
    read: dict[str, TokenPolicy] = {}
    try:
        raw = parse_policies(text) if text else {}
    except PolicyMistake as mistake:
        findings.refuse(where, str(mistake))
        return {}
    for number, (token, policy) in enumerate(raw.items(), start=1):
        if token not in tokens:
            findings.refuse(
                where, f"entry {number} is for a token that is not configured: add the token, or drop the entry"
            )
            continue
        try:
            read[token] = read_policy(policy)
        except PolicyMistake as mistake:
            findings.refuse(where, f"entry {number} (token {tokens.index(token) + 1}): {mistake}")
    return read
