"""Signing: who received a picture's URL may fetch it, for a while, and nothing else."""

import base64
import errno
import fcntl
import hashlib
import hmac
import math
import os
import re
import secrets
import stat
from pathlib import Path
from typing import Literal

from appliance.storage.atomic import UnsafePath, write_atomic

Verdict = Literal["ok", "expired", "invalid"]

KEY_BYTES = 32
_PURPOSE = b"appliance image url v1"  # this key signs nothing else; another purpose takes another prefix
_EXPIRY = re.compile(r"[1-9][0-9]{0,11}")  # Unix seconds, as `sign` writes them: until the year 33658


class UrlSigner:
    """Signs names for `ttl_s` seconds with HMAC-SHA256 and checks them. `now` is Unix time in seconds."""

    def __init__(self, key: bytes, ttl_s: float) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"the key must have {KEY_BYTES} bytes")
        self._key = key
        self._ttl_s = ttl_s

    def __repr__(self) -> str:
        return f"<UrlSigner ttl_s={self._ttl_s:g}>"

    def sign(self, name: str, now: float) -> str:
        """The query string that makes `name` fetchable: `exp=1700000000&sig=...`."""
        expiry = str(math.ceil(now + self._ttl_s))
        return f"exp={expiry}&sig={self._signature(name, expiry)}"

    def check(self, name: str, exp: str, sig: str, now: float) -> Verdict:
        """Judge a query that came back. `expired` is said of genuine signatures only."""
        if _EXPIRY.fullmatch(exp) is None:
            return "invalid"
        # Compared as text: decoding base64 first would let several spellings of one signature pass.
        expected = self._signature(name, exp).encode("ascii")
        if not hmac.compare_digest(expected, sig.encode("utf-8", "surrogatepass")):
            return "invalid"
        return "expired" if now > int(exp) else "ok"

    def _signature(self, name: str, expiry: str) -> str:
        raw_name = name.encode("utf-8", "surrogatepass")
        message = b"%s\n%d\n%s\n%s" % (_PURPOSE, len(raw_name), raw_name, expiry.encode("ascii"))
        digest = hmac.digest(self._key, message, hashlib.sha256)
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode("ascii")


def load_or_create_key(path: Path) -> bytes:
    """Load the 32-byte key, or make it (mode 0600, durable). Two processes that start at once get the same one.

    A key that others could read, or of a wrong length, is replaced: URLs live for minutes, so that costs little.
    Blocks. Raises UnsafePath for a symbolic link or somebody else's file, OSError when the disk fails.
    """
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)  # until it is closed
        key = _load_key(path)
        if key is None:
            key = secrets.token_bytes(KEY_BYTES)
            write_atomic(path, key, durable=True)
        return key
    finally:
        os.close(directory)


def _load_key(path: Path) -> bytes | None:
    try:
        file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UnsafePath(f"{path} is a symbolic link: remove it, a new key is made.") from None
        raise
    try:
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
            raise UnsafePath(f"{path} is not a file of this user: remove it, a new key is made.")
        key = os.read(file, KEY_BYTES + 1)
    finally:
        os.close(file)
    private = stat.S_IMODE(status.st_mode) & 0o077 == 0
    return key if private and len(key) == KEY_BYTES else None
