"""Paths: what a client's path means below the operator's roots. Text alone, no disk."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from appliance.toolbus.base import ToolFailed

MAX_PATH_BYTES = 4096
MAX_NAME_BYTES = 255


@dataclass(frozen=True, slots=True)
class Place:
    """A file's place: names below a root, at least one. `shown`: for answers; asked for again, it means the same."""

    root: Path
    parts: tuple[str, ...]
    shown: str


def parse_place(path: str, roots: Sequence[Path]) -> Place:
    """Find the root that a path is below: an absolute one by its beginning, a relative one is below the first root.

    Looks at text alone. `.` parts are dropped. Raises ToolFailed `invalid_path`, `path_not_allowed`, `no_roots`.
    """
    if not roots:
        raise ToolFailed("no_roots", "There is no directory for files: the operator sets TOOLS_FS_ROOTS.")
    names = _names(path.removeprefix("/"))
    if not path.startswith("/"):
        return _place(roots[0], names, "/".join(names))
    for number, root in sorted(enumerate(roots), key=lambda found: -len(found[1].parts)):
        above = list(root.parts[1:])
        if names[: len(above)] == above:
            below = names[len(above) :]
            return _place(root, below, "/".join(below) if number == 0 else "/" + "/".join(names))
    raise ToolFailed("path_not_allowed", "The path is outside of the directories for files: write a relative one.")


def _names(path: str) -> list[str]:
    try:
        length = len(path.encode())
    except UnicodeEncodeError:
        raise _invalid("holds half of a surrogate pair") from None
    if length > MAX_PATH_BYTES:
        raise _invalid(f"is longer than {MAX_PATH_BYTES} bytes")
    if "\0" in path:
        raise _invalid("holds a NUL")
    names = path.split("/")
    if "" in names:
        raise _invalid("has an empty part")
    if ".." in names:
        raise _invalid("has a part that is `..`")
    if any(len(name.encode()) > MAX_NAME_BYTES for name in names):
        raise _invalid(f"has a part longer than {MAX_NAME_BYTES} bytes")
    return [name for name in names if name != "."]


def _place(root: Path, names: Sequence[str], shown: str) -> Place:
    if not names:
        raise ToolFailed("not_a_file", "The path is a directory: write the path of a file.")
    return Place(root, tuple(names), shown)


def _invalid(words: str) -> ToolFailed:
    return ToolFailed("invalid_path", f"The path {words}: write names with / between them.")
