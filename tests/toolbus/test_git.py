"""git: shows what git shows, of one repository, and whatever that repository says runs nothing."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from appliance.toolbus.base import Outcome, ToolFailed
from appliance.toolbus.builtin.git import make
from tests.toolbus.environments import make_environment
from tests.toolbus.programs import nothing_left
from tests.toolbus.repositories import TestRepository, make_repository, sign_commit


@pytest.fixture
def repository(tmp_path: Path) -> TestRepository:
    return make_repository(tmp_path)


async def run_git(cwd: Path | None, *words: str, **settings: Any) -> Outcome:
    return await make(make_environment(tools_git_cwd=cwd, **settings)).run({"args": list(words)})


async def shown(cwd: Path, *words: str) -> str:
    outcome = await run_git(cwd, *words)
    assert outcome.failure is None, outcome.fields
    return str(outcome.fields["stdout"])


# What each of the plain git does, unhindered, and what the tool is asked. Both look at the same repository.
def by_configuration(**values: str) -> Callable[[TestRepository], None]:
    def prepare(repository: TestRepository) -> None:
        repository.write(".gitattributes", "a diff=evil filter=evil\n")
        repository.commit()
        repository.configure(**{key: value.format(evil=repository.evil) for key, value in values.items()})
        repository.write("a", "two\n")

    return prepare


def by_hook(repository: TestRepository) -> None:
    hook = repository.path / ".git" / "hooks" / "post-index-change"
    hook.parent.mkdir(exist_ok=True)
    hook.symlink_to(repository.evil)
    os.utime(repository.path / "a", (1, 1))


def by_include(repository: TestRepository) -> None:
    (repository.home / "included").write_text(f"[core]\n\tfsmonitor = {repository.evil}\n")
    repository.configure(**{f"includeIf.gitdir:{repository.path}/.path": str(repository.home / "included")})


def by_worktree_configuration(repository: TestRepository) -> None:
    repository.configure(extensions__worktreeConfig="true", core__repositoryformatversion="1")
    (repository.path / ".git" / "config.worktree").write_text(f"[core]\n\tfsmonitor = {repository.evil}\n")


def by_submodule(repository: TestRepository) -> None:
    repository.git("clone", "-q", str(repository.path), str(repository.path / "sub"))
    repository.git("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", "./sub", "sub", check=False)
    repository.commit()
    sub = repository.path / "sub"
    (sub / ".gitattributes").write_text("a filter=evil\n")
    (sub / "a").write_text("two\n")
    repository.git("config", "filter.evil.clean", str(repository.evil), cwd=sub)


def by_signature(repository: TestRepository) -> None:
    sign_commit(repository)
    repository.configure(gpg__program=str(repository.evil), log__showSignature="true")


def by_promisor(url: str, **values: str) -> Callable[[TestRepository], None]:
    """A blob is missing, and a remote promises it."""

    def prepare(repository: TestRepository) -> None:
        blob = repository.git("rev-parse", "HEAD:a").strip()
        (repository.path / ".git" / "objects" / blob[:2] / blob[2:]).unlink()
        repository.configure(
            core__repositoryformatversion="1",
            extensions__partialClone="evil",
            remote__evil__promisor="true",
            remote__evil__url=url.format(evil=repository.evil),
            **{key: value.format(evil=repository.evil) for key, value in values.items()},
        )

    return prepare


HOSTILE: dict[str, tuple[Callable[[TestRepository], None], tuple[str, ...], tuple[str, ...]]] = {
    "fsmonitor": (by_configuration(core__fsmonitor="{evil}"), ("status",), ("status",)),
    "fsmonitor, ls-files": (by_configuration(core__fsmonitor="{evil}"), ("ls-files", "-m"), ("ls-files", "-m")),
    "external diff": (by_configuration(diff__external="{evil}"), ("diff",), ("diff",)),
    "diff driver": (by_configuration(diff__evil__command="{evil}"), ("diff",), ("diff",)),
    "textconv": (by_configuration(diff__evil__textconv="{evil} <"), ("diff",), ("diff",)),
    "textconv, log": (by_configuration(diff__evil__textconv="{evil} <"), ("log", "-p"), ("log", "-p")),
    "textconv, show": (by_configuration(diff__evil__textconv="{evil} <"), ("show", "HEAD^"), ("show", "HEAD^")),
    "clean filter": (by_configuration(filter__evil__clean="{evil}"), ("diff",), ("diff",)),
    "clean filter, status": (by_configuration(filter__evil__clean="{evil}"), ("status",), ("status",)),
    "filter process": (by_configuration(filter__evil__process="{evil}"), ("diff",), ("diff",)),
    "hook": (by_hook, ("status",), ("status",)),
    "includeIf": (by_include, ("status",), ("status",)),
    "config.worktree": (by_worktree_configuration, ("status",), ("status",)),
    "submodule": (by_submodule, ("status",), ("status",)),
    "submodule, diff": (by_submodule, ("diff",), ("diff",)),
    "signature": (by_signature, ("log", "--format=%G?"), ("log", "--format=%G?")),
    "signature shown": (by_signature, ("show",), ("show",)),
    "promisor by ext": (
        by_promisor("ext::{evil}", protocol__ext__allow="always"), ("show", "HEAD:a"), ("show", "HEAD:a"),
    ),
    "promisor by uploadpack": (
        by_promisor("/nowhere", remote__evil__uploadpack="{evil}"), ("log", "-p"), ("log", "-p"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("way", HOSTILE)
async def test_a_hostile_repository_runs_nothing(repository: TestRepository, way: str) -> None:
    prepare, plain, asked = HOSTILE[way]
    prepare(repository)
    await run_git(repository.path, *asked)
    assert not repository.mark.exists(), "ran the repository's program"
    repository.git(*plain, check=False)
    assert repository.mark.exists(), "the trap works: a plain git walks into it"


@pytest.mark.parametrize(
    "words",
    [
        ("status",),
        ("status", "-sb", "--porcelain=v2", "--ignored", "-uall"),
        ("diff",),
        ("diff", "--cached", "--stat"),
        ("diff", "HEAD~1", "HEAD", "--", "a"),
        ("diff", "HEAD~1..HEAD", "-U0", "-M90%", "--word-diff"),
        ("log", "--oneline", "--graph", "--decorate", "-5"),
        ("log", "-n", "1", "--format=%H %an %s", "--since=2000-01-01"),
        ("log", "--follow", "-p", "--", "dir/b"),
        ("log", "-Sone", "--all", "--name-only"),
        ("log", "-g", "--format=%gd %gs"),
        ("show",),
        ("show", "HEAD:dir/b"),
        ("show", "v1", "--stat"),
        ("rev-parse", "--verify", "HEAD"),
        ("rev-parse", "--abbrev-ref", "HEAD"),
        ("rev-parse", "--short=8", "v1"),
        ("rev-parse", "--show-toplevel", "--show-prefix"),
        ("ls-files", "-s"),
        ("ls-files", "--others", "--exclude-standard"),
        ("ls-files", "-m", "--eol"),
    ],
)
async def test_it_shows_what_a_plain_git_shows_and_changes_nothing(
    repository: TestRepository, words: tuple[str, ...]
) -> None:
    repository.write("dir/b", "b\n")
    repository.write(".gitignore", "ignored\n")
    repository.commit("second")
    repository.git("tag", "v1")
    repository.git("pack-refs", "--all")
    repository.configure(branch__main__remote="origin", branch__main__merge="refs/heads/main")
    repository.git("config", "remote.origin.fetch", "+refs/heads/*:refs/remotes/origin/*")
    repository.git("update-ref", "refs/remotes/origin/main", "HEAD~1")
    repository.write("a", "two\n")
    repository.write("dir/c", "c\n")
    repository.git("add", "dir/c")
    repository.write("new", "n\n")
    repository.write("ignored", "i\n")
    before = repository.snapshot()
    async with nothing_left():
        found = await shown(repository.path, *words)
    assert repository.snapshot() == before
    assert found == repository.git(*words)


async def test_a_directory_within_a_repository_is_where_git_runs(repository: TestRepository) -> None:
    repository.write("dir/b", "b\n")
    assert await shown(repository.path / "dir", "rev-parse", "--show-prefix") == "dir/\n"
    assert "?? ./" in await shown(repository.path / "dir", "status", "-s")


async def test_linked_working_trees_bare_repositories_and_submodules_are_read(
    repository: TestRepository, tmp_path: Path
) -> None:
    repository.git("worktree", "add", "-q", "-b", "other", str(tmp_path / "linked"))
    repository.git("clone", "-q", "--bare", str(repository.path), str(tmp_path / "bare"))
    (tmp_path / "linked" / "a").write_text("changed\n")
    assert await shown(tmp_path / "linked", "rev-parse", "--abbrev-ref", "HEAD") == "other\n"
    assert await shown(tmp_path / "linked", "status", "-s") == " M a\n"
    assert await shown(tmp_path / "bare", "log", "--format=%s") == "first\n"
    assert await shown(tmp_path / "bare", "rev-parse", "--is-bare-repository") == "true\n"


async def test_what_describes_the_repository_is_believed(tmp_path: Path) -> None:
    repository = make_repository(tmp_path, "--object-format=sha256")
    assert len((await shown(repository.path, "rev-parse", "HEAD")).strip()) == 64
    repository.configure(core__fileMode="false")
    (repository.path / "a").chmod(0o755)
    assert await shown(repository.path, "status", "-s") == ""


async def test_a_split_index_is_read(repository: TestRepository) -> None:
    repository.git("update-index", "--split-index")
    assert await shown(repository.path, "ls-files") == "a\n"


async def test_a_working_tree_elsewhere_is_not_followed(repository: TestRepository) -> None:
    repository.configure(core__worktree="/etc")
    assert await shown(repository.path, "status", "-s") == ""
    assert await shown(repository.path, "rev-parse", "--show-toplevel") == f"{repository.path}\n"


async def test_another_users_repository_is_read(repository: TestRepository) -> None:
    if os.geteuid() != 0:
        pytest.skip("giving files away takes root")
    repository.give_away()
    assert await shown(repository.path, "log", "--format=%s") == "first\n"


REFUSED = """
-c core.fsmonitor=x status
-C / status
--git-dir=/ status
--work-tree=/ status
--exec-path=/tmp status
-p log
--no-pager log
--help
commit -m x
add a
checkout main
clone x
fetch
config core.pager
grep x
blame a
archive HEAD
alias
Log
log --output=f
log --outpu=f
log --output f
log --ext-diff
log --ext
log --textconv
log --text-conv
log --no-index
log -Of
log -O f
log --show-signature
log --remerge-diff
log --stdin
log --submodule=diff
log --ignore-submodules=none
log --alternate-refs
log --exclude-standard
log -p /etc/passwd
log -- ../x
log -- a/../../x
diff --no-index a b
diff --no-ind a b
diff /etc/passwd a
diff a /etc/passwd
diff ../x a
diff -- a ../x
diff a/../../x a
diff --output=/tmp/x
diff --output=x
diff --ext-diff
diff --textconv
diff -Oorder
diff --submodule=diff
diff --ignore-submodules=none
diff --recurse-submodules
diff -S --output=x
diff -- --output=x
show --ext-diff
show HEAD --output=x
show --textconv HEAD:a
status -v
status -vv
status --verbose
status --ignore-submodules=none
status --column
status --pathspec-from-file=/etc/passwd
rev-parse --git-dir
rev-parse --git-path hooks
rev-parse --absolute-git-dir
rev-parse --git-common-dir
rev-parse --local-env-vars
rev-parse --parseopt
rev-parse --sq-quote x
rev-parse --show-superproject-working-tree
rev-parse --shared-index-path
rev-parse --resolve-git-dir /etc
ls-files --recurse-submodules
ls-files -X /etc/passwd
ls-files --exclude-from=/etc/passwd
ls-files --exclude-per-directory=x
ls-files --with-tree=HEAD --debug
ls-files /etc
"""


@pytest.mark.parametrize("line", REFUSED.strip().splitlines())
async def test_what_does_more_than_look_on_is_refused(repository: TestRepository, line: str) -> None:
    with pytest.raises(ToolFailed) as caught:
        await run_git(repository.path, *line.split())
    assert caught.value.kind == "argument_refused"
    assert len(caught.value.message) < 300


async def test_without_a_repository_it_says_so(tmp_path: Path) -> None:
    for cwd, kind in ((None, "not_configured"), (Path("/proc"), "not_a_repository")):
        with pytest.raises(ToolFailed) as caught:
            await run_git(cwd, "status")
        assert caught.value.kind == kind


@pytest.mark.parametrize(
    ("spoil", "kind"),
    [
        (lambda git: (git / "config").write_text("[core"), "bad_repository"),
        (lambda git: (git / "HEAD").write_text("x" * 5000), "bad_repository"),
        (lambda git: (git / "config").write_text("[extensions]\n\trefstorage = reftable\n"), "unsupported_repository"),
        (lambda git: (git / "config").write_text("[extensions]\n\tnew = 1\n"), "unsupported_repository"),
        (lambda git: (git / "config").write_text("[extensions]\n\tobjectformat = md5\n"), "unsupported_repository"),
    ],
)
async def test_a_repository_that_cannot_be_read_is_refused(
    repository: TestRepository, spoil: Callable[[Path], object], kind: str
) -> None:
    spoil(repository.path / ".git")
    with pytest.raises(ToolFailed) as caught:
        await run_git(repository.path, "status")
    assert caught.value.kind == kind
    assert str(repository.path) not in caught.value.message


@pytest.mark.parametrize("name", ["HEAD", "config", "index"])
async def test_a_pipe_in_the_place_of_a_file_holds_nobody_up(repository: TestRepository, name: str) -> None:
    path = repository.path / ".git" / name
    path.unlink()
    os.mkfifo(path)
    try:
        outcome = await run_git(repository.path, "ls-files", tools_git_timeout_sec=0.3)
    except ToolFailed as failure:
        assert failure.kind in {"not_a_repository", "bad_repository", "timeout"}  # noqa: PT017 -- or an outcome
    else:
        assert outcome.failure is not None


async def test_a_failure_keeps_what_git_said(repository: TestRepository) -> None:
    outcome = await run_git(repository.path, "show", "nope")
    assert outcome.failure is not None
    assert outcome.failure.kind == "nonzero_exit"
    assert "nope" in outcome.fields["stderr"]
    assert outcome.fields["returncode"] == 128


def test_the_tool_takes_a_list_of_words_and_nothing_else() -> None:
    tool = make(make_environment())
    assert (tool.name, tool.version, tool.side_effects, tool.source) == ("git", "1", False, "builtin")
    assert tool.parameters["additionalProperties"] is False
    assert tool.parameters["properties"]["args"]["type"] == "array"
