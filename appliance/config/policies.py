"""Policies: what one token may do less than the global settings allow, from GATEWAY_TOKEN_POLICIES_JSON."""

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from appliance.config.values import Network, parse_network, split_csv

POLICIES_VARIABLE = "GATEWAY_TOKEN_POLICIES_JSON"


@dataclass(frozen=True, slots=True)
class TokenPolicy:
    """Limits of one token; None or empty: none of its own. Sizes in bytes, rates per second.

    `admin`: it sees the replays of every token; that is all it may do more.
    """

    tools_allowlist: tuple[str, ...] = ()
    tools_allow_shell: bool | None = None
    tools_allow_fs: bool | None = None
    tools_allow_fs_write: bool | None = None
    tools_allow_http_fetch: bool | None = None
    tools_allow_git: bool | None = None
    tools_allow_system_info: bool | None = None
    tools_allow_models_refresh: bool | None = None
    tools_rate_limit_rps: float | None = None
    tools_rate_limit_burst: int | None = None
    max_request_bytes: int | None = None
    ip_allowlist: tuple[Network, ...] = ()
    admin: bool | None = None


class PolicyMistake(ValueError):
    """A policy that cannot be used. The message names the key, never the token."""


def parse_policies(text: str) -> dict[str, Mapping[str, Any]]:
    """The object token -> policy, unread. Raises PolicyMistake."""
    try:
        value = json.loads(text, object_pairs_hook=_no_repeats, parse_constant=_no_constants, parse_int=_bounded)
    except json.JSONDecodeError as error:  # its message names a place, never the text
        raise PolicyMistake(f"is no JSON at character {error.pos}: {error.msg}: write {_EXAMPLE}") from None
    except RecursionError:
        raise PolicyMistake(f"is nested too deeply: write {_EXAMPLE}") from None
    if not isinstance(value, dict):
        raise PolicyMistake(f"is no JSON object: write {_EXAMPLE}")
    for position, policy in enumerate(value.values(), start=1):
        if not isinstance(policy, dict):
            raise PolicyMistake(f"entry {position} is no object: write {_EXAMPLE}")
    return value


def read_policy(raw: Mapping[str, Any]) -> TokenPolicy:
    """Strict: an unknown key would be a limit that does not hold. Raises PolicyMistake."""
    read: dict[str, Any] = {}
    for key, value in raw.items():
        if key not in _READERS:
            near = difflib.get_close_matches(key, _READERS, n=1)
            hint = f"write `{near[0]}`" if near else f"write one of {', '.join(_READERS)}"
            raise PolicyMistake(f"{_shown(key)} is no policy: {hint}")
        if value is not None:
            read[key] = _READERS[key](key, value)
    return TokenPolicy(**read)


def _read_flag(key: str, value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise PolicyMistake(f"`{key}` must be true or false, without quotes")


def _read_csv(key: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, str):
        raise PolicyMistake(f'`{key}` must be text with commas: write "a,b"')
    return split_csv(value)


def _read_networks(key: str, value: object) -> tuple[Network, ...]:
    try:
        return tuple(parse_network(item) for item in _read_csv(key, value))
    except ValueError as error:
        raise PolicyMistake(f"`{key}`: {error}") from None


def _read_whole(key: str, value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise PolicyMistake(f"`{key}` must be a whole number, 0 or more")


def _read_number(key: str, value: object) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1e9:
        return float(value)
    raise PolicyMistake(f"`{key}` must be a number, 0 or more")


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise PolicyMistake("names a token or a key twice: write each once")
    return found


def _no_constants(text: str) -> Any:
    raise PolicyMistake(f"holds {text}, which is no JSON number: write a number")


def _bounded(digits: str) -> int:
    if len(digits) > 15:
        raise PolicyMistake("holds a number of more than 15 digits: write a smaller one")
    return int(digits)


def _shown(key: str) -> str:
    return repr(key) if len(key) <= 40 else "a key"


_EXAMPLE = '{"<token>": {"ip_allowlist": "10.0.0.0/8"}}'
_READERS = {
    field.name: _read_flag
    if field.name.startswith("tools_allow_") or field.name == "admin"
    else {
        "tools_allowlist": _read_csv,
        "tools_rate_limit_rps": _read_number,
        "tools_rate_limit_burst": _read_whole,
        "max_request_bytes": _read_whole,
        "ip_allowlist": _read_networks,
    }[field.name]
    for field in fields(TokenPolicy)
}
