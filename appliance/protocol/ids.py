"""Ids: `<prefix>-<24 lowercase hex>`, made by the server, never taken from a client."""

import os
import re
from collections.abc import Callable
from typing import Literal

Prefix = Literal["req", "tool", "run", "chatcmpl", "cmpl", "resp", "msg", "toolcall"]
NewId = Callable[[Prefix], str]

_HEX_DIGITS = 24
_ID_BYTES = _HEX_DIGITS // 2
_AT_ONCE = 256
_ID = re.compile(r"(req|tool|run|chatcmpl|cmpl|resp|msg|toolcall)-[0-9a-f]{24}")


def new_id(prefix: Prefix) -> str:
    """Make a fresh id: 96 random bits, so that no two processes ever meet."""
    return f"{prefix}-{os.urandom(_ID_BYTES).hex()}"


class IdMaker:
    """Makes the same ids for who needs one all the time: the system is asked for the bits of many at once.

    An id is no secret. A process that forks would share what is left; this one only forks to execute.
    """

    def __init__(self, entropy: Callable[[int], bytes] = os.urandom) -> None:
        self._entropy = entropy
        self._left: list[str] = []

    def __call__(self, prefix: Prefix) -> str:
        if not self._left:
            digits = self._entropy(_ID_BYTES * _AT_ONCE).hex()
            self._left = [digits[start : start + _HEX_DIGITS] for start in range(0, len(digits), _HEX_DIGITS)]
        return f"{prefix}-{self._left.pop()}"


def is_id(prefix: Prefix, text: str) -> bool:
    """Say whether `text` is an id of this kind; a path id that is not is a plain 404."""
    match = _ID.fullmatch(text)
    return match is not None and match.group(1) == prefix
