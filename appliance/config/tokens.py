"""Tokens: the secrets that let a client in, where they come from, and the one that is made where there is none."""

import hashlib
import os
import secrets
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from appliance.config.policies import TokenPolicy

MIN_TOKEN_CHARACTERS = 16  # outside loopback; a made one has 43
MAX_TOKEN_CHARACTERS = 1024  # a request head holds 16 KiB
MAX_TOKEN_FILE_BYTES = 1_000_000
TOKEN_FILE = "token"  # noqa: S105 - the name of the file
_MADE_BYTES = 32


@dataclass(frozen=True, slots=True)
class Token:
    """One token. `digest`: SHA-256 of the secret, to compare with. `fingerprint`: its name in logs and records."""

    secret: bytes = field(repr=False)
    digest: bytes = field(repr=False)
    fingerprint: str
    policy: TokenPolicy = field(default_factory=TokenPolicy)


@dataclass(frozen=True, slots=True)
class LocalToken:
    """The token that this gateway made for itself."""

    token: Token
    path: Path
    is_new: bool


class TokenMistake(ValueError):
    """A token, or a file of tokens, that cannot be used. Its message holds no token."""


def make_token(text: str, policy: TokenPolicy | None = None) -> Token:
    secret = text.encode("ascii")
    # The prefix keeps fingerprints, which are public, apart from digests, which are compared.
    fingerprint = hashlib.sha256(b"appliance token fingerprint\0" + secret).hexdigest()[:16]
    return Token(secret, hashlib.sha256(secret).digest(), fingerprint, policy or TokenPolicy())


def check_token(text: str, *, min_characters: int) -> None:
    """Raises TokenMistake."""
    if not text or any(not "!" <= character <= "~" for character in text):
        raise TokenMistake(
            "holds a space or a character that is not visible ASCII: make one with `openssl rand -hex 32`"
        )
    if len(text) < min_characters:
        raise TokenMistake(
            f"is shorter than {min_characters} characters, which the network could guess: "
            "make one with `openssl rand -hex 32`"
        )
    if len(text) > MAX_TOKEN_CHARACTERS:
        raise TokenMistake(f"is longer than {MAX_TOKEN_CHARACTERS} characters: make one with `openssl rand -hex 32`")


def read_token_file(path: Path, *, must_be_private: bool) -> tuple[str, ...]:
    """One token a line, `#` begins a comment line. Raises TokenMistake, OSError."""
    # Not blocking: a fifo must not hold up the start.
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise TokenMistake("is no regular file: write one token a line into a file")
        if must_be_private and status.st_mode & 0o077:
            raise TokenMistake(
                f"may be read or written by others (mode {status.st_mode & 0o777:o}): run `chmod 600 {path}`"
            )
        data = file.read(MAX_TOKEN_FILE_BYTES + 1)
    if len(data) > MAX_TOKEN_FILE_BYTES:
        raise TokenMistake(f"is larger than {MAX_TOKEN_FILE_BYTES} bytes: write one token a line")
    try:
        lines = [line.strip() for line in data.decode("ascii").splitlines()]
    except UnicodeDecodeError:
        raise TokenMistake("holds characters that are not ASCII: write one token a line") from None
    tokens = tuple(line for line in lines if line and not line.startswith("#"))
    if not tokens:
        raise TokenMistake("holds no token: write one token a line")
    return tokens


def load_or_create_token(state_dir: Path) -> LocalToken:
    """The gateway's own token, made on the first start: `<state>/token`, mode 0600 in a 0700 directory.

    Two first starts at once agree on one. Raises TokenMistake, OSError.
    """
    _make_private(state_dir)
    path = state_dir / TOKEN_FILE
    made = _create_once(path)
    (text,) = _exactly_one(read_token_file(path, must_be_private=True), path)
    check_token(text, min_characters=MIN_TOKEN_CHARACTERS)
    return LocalToken(make_token(text), path, is_new=made)


def _make_private(directory: Path) -> None:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = directory.stat()
    if status.st_uid == os.geteuid() and status.st_mode & 0o077:
        directory.chmod(0o700)


def _create_once(path: Path) -> bool:
    """Whether this call made the file. It appears whole or not at all: written aside, then linked to its name."""
    if path.exists():
        return False
    aside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with open(descriptor, "w", encoding="ascii") as file:
            file.write(f"{secrets.token_urlsafe(_MADE_BYTES)}\n")
            file.flush()
            os.fsync(file.fileno())
        os.link(aside, path)
    except FileExistsError:
        return False
    finally:
        aside.unlink()
    _sync_directory(path.parent)
    return True


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _exactly_one(tokens: Sequence[str], path: Path) -> Sequence[str]:
    if len(tokens) != 1:
        raise TokenMistake(f"{path} must hold one token: delete it and a new one is made")
    return tokens
