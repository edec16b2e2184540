"""Tokens: where a program that runs beside the gateway finds the one that opens it."""

from collections.abc import Mapping
from pathlib import Path

from appliance.verification.http import is_loopback


def find_token(given: str | None, environ: Mapping[str, str], base_url: str) -> str | None:
    """Take the flag, else the environment, else the file that the gateway made on its first start.

    The file is read only for a gateway on this machine: a local secret is not shown to another one.
    """
    if given:
        return given
    if environ.get("GATEWAY_BEARER_TOKENS"):
        return environ["GATEWAY_BEARER_TOKENS"].split(",")[0].strip() or None
    if environ.get("GATEWAY_BEARER_TOKEN"):
        return environ["GATEWAY_BEARER_TOKEN"]
    return _read_first(token_files(environ)) if is_loopback(base_url) else None


def is_token(text: str) -> bool:
    """Say whether this can be a token: visible ASCII only, so that it fits into a header."""
    return all("!" <= c <= "~" for c in text)


def token_files(environ: Mapping[str, str]) -> tuple[Path, ...]:
    """Where a token may lie, the likeliest first: the operator's file, then the generated one."""
    named = environ.get("GATEWAY_TOKEN_FILE")
    return ((Path(named),) if named else ()) + (state_dir(environ) / "token",)


def state_dir(environ: Mapping[str, str]) -> Path:
    """The gateway's state: `$STATE_DIRECTORY`, else `$XDG_STATE_HOME/appliance`, else the default of the latter."""
    if environ.get("STATE_DIRECTORY"):
        return Path(environ["STATE_DIRECTORY"].split(":")[0])
    home = environ.get("XDG_STATE_HOME") or str(Path(environ.get("HOME") or "~").expanduser() / ".local" / "state")
    return Path(home) / "appliance"


def _read_first(paths: tuple[Path, ...]) -> str | None:
    for path in paths:
        try:
            text = path.read_text(encoding="ascii")
        except (OSError, UnicodeDecodeError):
            continue
        tokens = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
        if tokens:
            return tokens[0]
    return None
