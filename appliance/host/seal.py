"""The seal: the executable's last line is the digest of all before it, so that a bad copy is told from a good one.

It finds accidents (a cut download, a flipped bit), not forgeries: those are what the release's signature is for.
"""

import hashlib
import re
from pathlib import Path

SEAL_BYTES = 82
_SEAL = re.compile(rb"appliance-sha256:([0-9a-f]{64})\n")
_PIECE_BYTES = 1 << 20


class BrokenSeal(ValueError):
    """A file that is no whole executable of the appliance; the message says what to do."""


def check_seal(file: Path) -> str:
    """The SHA-256 of the whole file, seal included, in hex. Raises BrokenSeal, OSError."""
    size = file.stat().st_size
    if size <= SEAL_BYTES:
        raise BrokenSeal(f"{file} is no executable of the appliance: it is {size} bytes long")
    content = hashlib.sha256()
    with file.open("rb") as read:
        left = size - SEAL_BYTES
        while piece := read.read(min(left, _PIECE_BYTES)):
            content.update(piece)
            left -= len(piece)
        last = read.read()
    seal = _SEAL.fullmatch(last)
    if seal is None:
        raise BrokenSeal(f"{file} is cut short, or is no executable of the appliance: fetch it again")
    if seal[1].decode("ascii") != content.hexdigest():
        raise BrokenSeal(
            f"{file} was damaged on its way: its bytes do not have the digest it ends with; fetch it again"
        )
    content.update(last)
    return content.hexdigest()
