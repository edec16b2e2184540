"""Arguments: which options a program may get. Every word that begins with a dash is judged, wherever it stands."""

import difflib
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from appliance.toolbus.base import ToolFailed


@dataclass(frozen=True, slots=True)
class Options:
    """The options of a program that only look on, written in full: `-n`, `--max-count`.

    `valued` have a value, in the same word or the next; `optional` may have one, in the same word (`--color=auto`,
    `-U3`). `counts`: `-5` is one too.
    """

    flags: frozenset[str]
    valued: frozenset[str] = frozenset()
    optional: frozenset[str] = frozenset()
    counts: bool = False

    def __or__(self, other: "Options") -> "Options":
        return Options(
            self.flags | other.flags,
            self.valued | other.valued,
            self.optional | other.optional,
            self.counts or other.counts,
        )


@dataclass(frozen=True, slots=True)
class Words:
    """Arguments taken apart: `options` without their values, `operands` in their order."""

    options: frozenset[str]
    operands: tuple[str, ...]


def refused(program: str, word: str, why: str) -> ToolFailed:
    """The failure of an argument, which is shown in short."""
    shown = word if len(word) <= 60 else f"{word[:60]}..."
    return ToolFailed("argument_refused", f"{program} {shown!r} is refused: {why}.")


def options(flags: str, valued: str = "", optional: str = "", *, counts: bool = False) -> Options:
    """Options from words with blanks between them."""
    return Options(frozenset(flags.split()), frozenset(valued.split()), frozenset(optional.split()), counts)


def read_words(program: str, words: Sequence[str], allowed: Options) -> Words:
    """Take arguments apart as getopt_long(3) does, without its abbreviations. Raises ToolFailed for any other option.

    A value in a word of its own, and a word after `--`, must not begin with a dash: should a program see there an
    option where we see none, it is none that does harm.
    """
    found: set[str] = set()
    operands: list[str] = []
    remaining = list(reversed(words))
    while remaining:
        word = remaining.pop()
        if word == "--":
            continue
        if not word.startswith("-") or word == "-":
            operands.append(word)
            continue
        names, awaits = _read_option(program, word, allowed)
        found.update(names)
        if awaits:
            if not remaining or remaining[-1].startswith("-"):
                raise refused(program, word, "it needs a value: write it in the same word")
            remaining.pop()
    return Words(frozenset(found), tuple(operands))


def _read_option(program: str, word: str, allowed: Options) -> tuple[Collection[str], bool]:
    """The options in this word, and whether the next one is a value."""
    if word.startswith("--"):
        name, equals, _ = word.partition("=")
        if name in (allowed.valued | allowed.optional if equals else allowed.flags | allowed.optional):
            return [name], False
        if name in allowed.valued:
            return [name], True
        raise _unknown(program, word, allowed)
    if allowed.counts and word[1:].isdecimal() and word.isascii():
        return ["-n"], False
    names = []
    for at in range(1, len(word)):
        name = f"-{word[at]}"
        names.append(name)
        if name in allowed.valued:
            return names, at == len(word) - 1
        if name in allowed.optional:
            return names, False
        if name not in allowed.flags:
            raise _unknown(program, word, allowed)
    return names, False


def _unknown(program: str, word: str, allowed: Options) -> ToolFailed:
    known = sorted(allowed.flags | allowed.valued | allowed.optional)
    near = difflib.get_close_matches(word.partition("=")[0], known, n=3)
    hint = f"write {' or '.join(near)}" if near else "do without it"
    return refused(program, word, f"it is not among the options that only look on, each written in full: {hint}")


def check_denied(program: str, words: Sequence[str], letters: str, names: Sequence[str], why: str) -> None:
    """Refuse these options, their abbreviations, and each word that may hold one of them. Raises ToolFailed."""
    for word in words:
        name = word.partition("=")[0]
        if name.startswith("--"):
            if len(name) > 2 and any(denied.startswith(name) for denied in names):
                raise refused(program, word, why)
        elif name.startswith("-") and any(letter in word[1:] for letter in letters):
            raise refused(program, word, why)
