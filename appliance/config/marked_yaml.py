"""Marked YAML: a file whose every value knows its line and key, so that a mistake in it can be pointed at."""

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from appliance.config.errors import Mistake

MAX_BYTES = 262_144  # the parser is slow: about a second
MAX_DEPTH = 16  # a backends file needs 5
MAX_MERGED_KEYS = 10_000  # what `<<` may pull in, all together

_TAG = "tag:yaml.org,2002:"
_VARIABLE = re.compile(r"\$(?:(\$)|\{([A-Za-z_][A-Za-z0-9_]*)\}|(\{))")
_WHOLE = re.compile(r"[0-9]{1,15}")
_BOOLEANS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


class YamlMistake(Exception):
    """A mistake in the file, at a line."""

    def __init__(self, where: str, message: str) -> None:
        super().__init__(f"{where}: {message}")
        self.mistake = Mistake(where, message)


@dataclass(slots=True)
class _Document:
    """What all entries of one file share."""

    file: Path
    variables: Mapping[str, str]
    merged_keys: int = 0


@dataclass(frozen=True, slots=True)
class Entry:
    """One value: its node, and the keys that lead to it. Each reader raises YamlMistake on another kind of value.

    `line`: of its key, or of the item in a list; an alias has the line where it is used.
    """

    node: yaml.Node
    line: int
    keys: tuple[str, ...]
    document: _Document

    def mistake(self, message: str, *, line: int | None = None) -> YamlMistake:
        where = f"{self.document.file}:{line or self.line}"
        return YamlMistake(f"{where}: {'.'.join(self.keys)}" if self.keys else where, message)

    def mapping(self) -> dict[str, "Entry"]:
        """All keys, `<<` merged; a key that is there twice is refused."""
        pairs = self._pairs(frozenset())
        return {key: Entry(node, line, (*self.keys, key), self.document) for key, (line, node) in pairs.items()}

    def known(self, names: Iterable[str]) -> dict[str, "Entry"]:
        """The mapping, if it has no other keys than these; a null counts as not there."""
        allowed = tuple(names)
        entries = self.mapping()
        for key, entry in entries.items():
            if key not in allowed:
                near = difflib.get_close_matches(key, allowed, n=1)
                raise entry.mistake(f"is unknown: write {near[0] if near else ', '.join(allowed)}")
        return {key: entry for key, entry in entries.items() if entry.node.tag != f"{_TAG}null"}

    def text(self) -> str:
        """Text with `${NAME}` replaced from the variables, `$$` by `$`."""
        if not isinstance(self.node, yaml.ScalarNode) or self.node.tag != f"{_TAG}str":
            raise self.mistake("must be text: put it in quotes")
        return _VARIABLE.sub(self._replace, self.node.value)

    def choice(self, names: Iterable[str]) -> str:
        allowed = tuple(names)
        text = self.text()
        if text not in allowed:
            raise self.mistake(f"must be one of {', '.join(allowed)}")
        return text

    def flag(self) -> bool:
        text = self._scalar().lower()
        if text not in _BOOLEANS:
            raise self.mistake("must be true or false")
        return _BOOLEANS[text]

    def whole(self, lowest: int, highest: int) -> int:
        text = self._scalar().replace("_", "")
        if not _WHOLE.fullmatch(text) or not lowest <= int(text) <= highest:
            raise self.mistake(f"must be a whole number from {lowest} to {highest}")
        return int(text)

    def items(self) -> list["Entry"]:
        if not isinstance(self.node, yaml.SequenceNode):
            raise self.mistake("must be a list: write [a, b]")
        return [
            Entry(node, _line(node), (*self.keys, str(index)), self.document)
            for index, node in enumerate(self.node.value)
        ]

    def _scalar(self) -> str:
        """A value as it was written, variables replaced, whatever its type."""
        if not isinstance(self.node, yaml.ScalarNode):
            raise self.mistake("must be a single value")
        return _VARIABLE.sub(self._replace, self.node.value)

    def _replace(self, match: re.Match[str]) -> str:
        dollar, name, brace = match.groups()
        if brace:
            raise self.mistake("holds ${ without a name and }: write ${NAME}, or $$ for a dollar sign")
        if dollar:
            return "$"
        if name not in self.document.variables:
            raise self.mistake(f"${{{name}}} is not set: set {name} in the environment or the env file")
        return self.document.variables[name]

    def _pairs(self, inside: frozenset[int]) -> "_Pairs":
        node = self.node
        if not isinstance(node, yaml.MappingNode):
            raise self.mistake("must be a mapping: write `key: value` lines below it")
        own: _Pairs = {}
        merged: _Pairs = {}
        for key, value in node.value:
            if key.tag == f"{_TAG}merge":
                merged = self._merge(value, inside | {id(node)}) | merged
                continue
            name = self._key(key)
            if name in own:
                raise self.mistake(f"`{name}` is there twice: keep one", line=_line(key))
            own[name] = (_line(key), value)
        return merged | own

    def _merge(self, value: yaml.Node, inside: frozenset[int]) -> "_Pairs":
        """What `<<` brings; the first of several wins. Bounded: aliases could multiply without end."""
        merged: _Pairs = {}
        for node in value.value if isinstance(value, yaml.SequenceNode) else [value]:
            if id(node) in inside or len(inside) > MAX_DEPTH:
                raise self.mistake("merges itself, or through too many others: drop the `<<`")
            pairs = Entry(node, self.line, self.keys, self.document)._pairs(inside)
            self.document.merged_keys += len(pairs) + 1
            if self.document.merged_keys > MAX_MERGED_KEYS:
                raise self.mistake("merges too much: write the keys out")
            merged = pairs | merged
        return merged

    def _key(self, node: yaml.Node) -> str:
        if not isinstance(node, yaml.ScalarNode):
            raise self.mistake("has a key that is not a word: write `key: value`", line=_line(node))
        return str(node.value)


_Pairs = dict[str, tuple[int, yaml.Node]]  # by key: the key's line, and the value


def load_marked_yaml(file: Path, variables: Mapping[str, str]) -> Entry:
    """The one document of a file. Nothing in it is constructed: no tag runs code. Raises YamlMistake, OSError."""
    with file.open("rb") as opened:
        data = opened.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise YamlMistake(str(file), f"is larger than {MAX_BYTES} bytes: write less")
    try:
        text = data.decode("utf-8-sig")
        _check_depth(file, text)
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise YamlMistake(f"{file}:{line}", "is not UTF-8: save the file as UTF-8") from None
    except yaml.YAMLError as error:
        raise _syntax_mistake(file, error) from None
    if node is None:
        raise YamlMistake(str(file), "is empty: write `backends:` and classes below it")
    return Entry(node, _line(node), (), _Document(file, variables))


def _line(marked: yaml.Node | yaml.Event) -> int:
    mark = marked.start_mark
    return mark.line + 1 if mark is not None else 1


def _check_depth(file: Path, text: str) -> None:
    """Before nodes are composed, which recurses."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise YamlMistake(f"{file}:{_line(event)}", f"is nested deeper than {MAX_DEPTH}: write fewer levels")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _syntax_mistake(file: Path, error: yaml.YAMLError) -> YamlMistake:
    problem, where = "a character that YAML forbids", str(file)
    if isinstance(error, yaml.MarkedYAMLError):
        problem = error.problem or "unreadable"
        mark = error.problem_mark
        where = f"{file}:{mark.line + 1}" if mark is not None else where
    return YamlMistake(where, f"is not YAML ({problem}): check indentation, colons and quotes")
