"""Ids: `<prefix>-<24 lowercase hex>`, made by the server, never taken from a client."""

import os
import re
from collections.abc import Callable
from typing import Literal

Prefix = Literal["req", "tool", "run", "chatcmpl", "cmpl", "resp", "msg", "toolcall"]
NewId = Callable[[Prefix], str]

_HEX_DIGITS = 24
_ID = re.compile(r"(req|tool|run|chatcmpl|cmpl|resp|msg|toolcall)-[0-9a-f]{24}")


def new_id(prefix: Prefix) -> str:
    """Make a fresh id: 96 random bits, so that no two processes ever meet."""
    return f"{prefix}-{os.urandom(_HEX_DIGITS // 2).hex()}"


def is_id(prefix: Prefix, text: str) -> bool:
    """Say whether `text` is an id of this kind; a path id that is not is a plain 404."""
    match = _ID.fullmatch(text)
    return match is not None and match.group(1) == prefix
