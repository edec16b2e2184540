"""Vectors and scores of the scripted model: of the letters of a text alone, the same on every machine. Pure."""

import math
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

DIMENSIONS = 256
MAX_DIMENSIONS = 4096
MAX_READ_CHARS = 8192  # of each text; 8 ms of work

_WORD = re.compile(r"\w+")
_GRAM_CHARS = 3
_WORD_WEIGHT = 3.0  # whole words count for more than the letters that they share


def embed(text: str, dimensions: int = DIMENSIONS) -> list[float]:
    """A unit vector: texts that share words, or parts of words, are near each other."""
    vector = [0.0] * dimensions
    for feature, weight in _features(text):
        number = zlib.crc32(feature.encode("utf-8", "surrogatepass"))
        vector[(number >> 1) % dimensions] += weight if number & 1 else -weight
    length = math.sqrt(math.fsum(value * value for value in vector))
    if not length:
        vector[0] = length = 1.0
    return [round(value / length, 7) for value in vector]


def rank(query: str, documents: Sequence[str]) -> list[tuple[int, float]]:
    """(index, score from 0 to 1), best first: how many of the query's words, and of their letters, a document has."""
    wanted = _words(query)
    wanted_grams = _grams(wanted)
    scores = [_score(wanted, wanted_grams, _words(document)) for document in documents]
    return sorted(enumerate(scores), key=lambda pair: (-pair[1], pair[0]))


def document_text(document: str | Mapping[str, Any]) -> str:
    return document if isinstance(document, str) else str(document["text"])


def _score(wanted: set[str], wanted_grams: set[str], found: set[str]) -> float:
    if not wanted:
        return 0.0
    words = len(wanted & found) / len(wanted)
    letters = len(wanted_grams & _grams(found)) / len(wanted_grams)
    return round(0.7 * words + 0.3 * letters, 6)


def _words(text: str) -> set[str]:
    return set(_WORD.findall(text[:MAX_READ_CHARS].lower()))


def _grams(words: set[str]) -> set[str]:
    return {gram for word in words for gram in _grams_of(word)}


def _grams_of(word: str) -> Iterator[str]:
    """Letters in threes, with the word's ends marked."""
    marked = f"^{word}$"
    return (marked[start : start + _GRAM_CHARS] for start in range(len(marked) - _GRAM_CHARS + 1))


def _features(text: str) -> Iterator[tuple[str, float]]:
    for word in _WORD.findall(text[:MAX_READ_CHARS].lower()):
        yield f" {word}", _WORD_WEIGHT
        for gram in _grams_of(word):
            yield gram, 1.0
