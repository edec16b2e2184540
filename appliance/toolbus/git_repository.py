"""Git repositories as `git` may see them: a view with a configuration of ours, so that theirs cannot run anything.

A repository's configuration names programs in some forty ways (filters, fsmonitor, external diffs, hooks, signatures,
pagers, promisor remotes), a new one every other year, and may change between a check and the use. So git gets a
directory of our own that links to the repository's objects, refs and index, and has the few settings that only
describe: gitrepository-layout(5).
"""

import os
import re
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from appliance.toolbus.base import ToolFailed

_LINKED_COMMON = ("objects", "refs", "packed-refs", "shallow", "info/attributes", "info/exclude", "info/grafts",
                  "logs/refs")  # fmt: skip
_LINKED_OWN = (
    "index", "logs/HEAD", "info/sparse-checkout", "MERGE_HEAD", "MERGE_MSG", "MERGE_MODE", "CHERRY_PICK_HEAD",
    "REVERT_HEAD", "REBASE_HEAD", "ORIG_HEAD", "FETCH_HEAD", "AUTO_MERGE", "BISECT_LOG", "BISECT_START",
    "rebase-merge", "rebase-apply", "sequencer",
)  # fmt: skip
_DESCRIBING = re.compile(
    r"core\.(filemode|symlinks|ignorecase|precomposeunicode|autocrlf|eol|quotepath|sparsecheckout|sparsecheckoutcone)"
    r"|index\.sparse|branch\..+\.(remote|merge)|remote\..+\.fetch"
)
_MAX_DESCRIBING = 500  # a branch has two; they travel in the environment, which is bounded
_HARMLESS_EXTENSIONS = frozenset(
    {"noop", "noop-v1", "objectformat", "partialclone", "preciousobjects", "relativeworktrees", "worktreeconfig"}
)
_OURS = (
    ("core.fsmonitor", "false"), ("core.untrackedCache", "false"), ("core.hooksPath", "/dev/null"),
    ("core.attributesFile", "/dev/null"), ("core.excludesFile", "/dev/null"), ("core.pager", "cat"),
    ("core.packedGitWindowSize", "32m"), ("core.packedGitLimit", "512m"),  # within the limit of memory
    ("diff.autoRefreshIndex", "false"), ("diff.submodule", "short"), ("status.submoduleSummary", "false"),
    ("submodule.recurse", "false"), ("protocol.allow", "never"), ("color.ui", "false"),
    ("gpg.program", "/dev/null"), ("gpg.openpgp.program", "/dev/null"), ("gpg.x509.program", "/dev/null"),
    ("gpg.ssh.program", "/dev/null"), ("log.showSignature", "false"), ("maintenance.auto", "false"),
)  # fmt: skip
_SMALL_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Repository:
    """Where a repository's parts lie. `own`: of this working tree; `common`: of all. `work_tree` None: it is bare."""

    own: Path
    common: Path
    work_tree: Path | None


def find_repository(cwd: Path) -> Repository:
    """The repository that this directory belongs to, found as git finds it. Raises ToolFailed."""
    for directory in (cwd, *cwd.parents):
        marker = directory / ".git"
        if marker.is_dir():
            return Repository(marker, marker, directory)
        if marker.is_file():
            return _linked(directory, _small(marker))
        if (directory / "HEAD").is_file() and (directory / "objects").is_dir() and (directory / "refs").is_dir():
            return Repository(directory, directory, None)
    raise ToolFailed("not_a_repository", "There is no git repository where git would run: name another directory.")


def make_view(repository: Repository, view: Path, entries: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Fill the directory `view`, and say with which variables git sees the repository by it.

    `entries`: the repository's own configuration, as `git config --list` has it. Raises ToolFailed.
    """
    described = dict(entries)
    _check_extensions(described)
    object_format = described.get("extensions.objectformat", "sha1").lower()
    if object_format not in {"sha1", "sha256"}:
        raise _unsupported("extensions.objectFormat")
    for name in ("info", "logs"):
        (view / name).mkdir(parents=True)
    (view / "HEAD").write_text(_small(repository.own / "HEAD"))
    (view / "config").write_text(
        f"[core]\n\trepositoryformatversion = 1\n\tbare = {str(repository.work_tree is None).lower()}\n"
        f"[extensions]\n\tobjectformat = {object_format}\n"
    )
    for base, names in ((repository.common, _LINKED_COMMON), (repository.own, _LINKED_OWN)):
        for name in names:
            _link(base / name, view / name)
    for shared in repository.own.glob("sharedindex.*"):
        _link(shared, view / shared.name)
    return _variables(repository, view, entries)


def base_variables() -> dict[str, str]:
    """Nothing of the machine's or of a user's is read, nothing is asked, fetched or written."""
    return {
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_NO_LAZY_FETCH": "1",
        "GIT_ALLOW_PROTOCOL": "",
        "GIT_PAGER": "cat",
    }


def _variables(repository: Repository, view: Path, entries: Sequence[tuple[str, str]]) -> dict[str, str]:
    work_tree = {} if repository.work_tree is None else {"GIT_WORK_TREE": str(repository.work_tree)}
    describing = [(key, value) for key, value in entries if _DESCRIBING.fullmatch(key) and "\0" not in key + value]
    settings = (*describing[:_MAX_DESCRIBING], *_OURS)
    counted = {
        f"GIT_CONFIG_{part}_{number}": text
        for number, pair in enumerate(settings)
        for part, text in zip(("KEY", "VALUE"), pair, strict=True)
    }
    return {
        **base_variables(),
        "GIT_DIR": str(view),
        **work_tree,
        "GIT_CONFIG_COUNT": str(len(settings)),
        **counted,
    }


def read_entries(listed: str) -> Iterator[tuple[str, str]]:
    """The output of `git config --null --list`; a key without a value is true."""
    for entry in filter(None, listed.split("\0")):
        key, newline, value = entry.partition("\n")
        yield key, value if newline else "true"


def _linked(directory: Path, text: str) -> Repository:
    """`.git` is a file in linked working trees and submodules: gitrepository-layout(5), gitdir and commondir."""
    if not text.startswith("gitdir: "):
        raise ToolFailed(
            "not_a_repository", "The repository's .git is neither a directory nor a gitdir file: look at it."
        )
    own = directory / text.removeprefix("gitdir: ").rstrip("\n")
    if not (own / "commondir").is_file():
        return Repository(own, own, directory)
    return Repository(own, own / _small(own / "commondir").rstrip("\n"), directory)


def _small(path: Path) -> str:
    """A file of a line; a pipe or a device in its place holds nobody up."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise ToolFailed(
            "bad_repository", f"The repository's {path.name} cannot be read ({error.strerror}): see to it."
        ) from None
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ToolFailed("bad_repository", f"The repository's {path.name} is no file: see to it.")
        data = file.read(_SMALL_BYTES + 1)
    if len(data) > _SMALL_BYTES:
        raise ToolFailed("bad_repository", f"The repository's {path.name} is longer than any: see to it.")
    return data.decode("utf-8", "surrogateescape")


def _check_extensions(described: dict[str, str]) -> None:
    for key, value in described.items():
        section, _, name = key.partition(".")
        plain_refs = name == "refstorage" and value.lower() == "files"
        if section == "extensions" and name not in _HARMLESS_EXTENSIONS and not plain_refs:
            raise _unsupported(key)


def _unsupported(what: str) -> ToolFailed:
    return ToolFailed(
        "unsupported_repository", f"The repository uses {what[:60]!r}, which this tool cannot read: convert it."
    )


def _link(target: Path, link: Path) -> None:
    if os.path.lexists(target):
        link.symlink_to(os.path.abspath(target))
