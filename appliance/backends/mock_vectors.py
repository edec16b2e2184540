"""Vectors and scores of the scripted model: of the letters of a text alone, the same on every machine. Pure."""

import hashlib
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

DIMENSIONS = 256
MAX_DIMENSIONS = 4096
MAX_READ_CHARS = 8192  # of each text; 10 ms of work

_WORD = re.compile(r"\w+")
_GRAM_CHARS = 3
_WORD_WEIGHT = 3.0  # whole words count for more than the letters that they share


def embed(text: str, dimensions: int = DIMENSIONS) -> list[float]:
    """A unit vector: texts that share words, or parts of words, are near each other."""
    vector = [0.0] * dimensions
    for feature, weight in _features(text):
        digest = hashlib.blake2b(feature.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        number = int.from_bytes(digest, "big")
        vector[(number >> 1) % dimensions] += weight if number & 1 else -weight
    length = math.sqrt(math.fsum(value * value for value in vector))
    if not length:
        vector[0] = length = 1.0
    return [round(value / length, 7) for value in vector]


@dataclass(frozen=True, slots=True)
class Wanted:
    """A query, read once for all documents."""

    words: frozenset[str]
    grams: frozenset[str]


def read_query(query: str) -> Wanted:
    words = _words(query)
    return Wanted(words, _grams(words))


def score(wanted: Wanted, document: str) -> float:
    """From 0 to 1: how many of the query's words, and of their letters in threes, a document has."""
    if not wanted.words:
        return 0.0
    found = _words(document)
    words = len(wanted.words & found) / len(wanted.words)
    letters = len(wanted.grams & _grams(found)) / len(wanted.grams)
    return round(0.7 * words + 0.3 * letters, 6)


def document_text(document: str | Mapping[str, Any]) -> str:
    return document if isinstance(document, str) else str(document["text"])


def _words(text: str) -> frozenset[str]:
    return frozenset(_WORD.findall(text[:MAX_READ_CHARS].lower()))


def _grams(words: frozenset[str]) -> frozenset[str]:
    return frozenset(gram for word in words for gram in _grams_of(word))


def _grams_of(word: str) -> Iterator[str]:
    """Letters in threes, with the word's ends marked."""
    marked = f"^{word}$"
    return (marked[start : start + _GRAM_CHARS] for start in range(len(marked) - _GRAM_CHARS + 1))


def _features(text: str) -> Iterator[tuple[str, float]]:
    for word in _WORD.findall(text[:MAX_READ_CHARS].lower()):
        yield f" {word}", _WORD_WEIGHT
        for gram in _grams_of(word):
            yield gram, 1.0
