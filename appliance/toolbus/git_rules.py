"""Git rules: the subcommands and options that only look on, and only at the repository (gitcli(7), git 2.34 to 2.50)."""

from collections.abc import Mapping, Sequence

from appliance.toolbus.arguments import Options, options, read_words, refused
from appliance.toolbus.base import ToolFailed

_DIFF = options(
    "-p -u --patch -s --no-patch --raw --patch-with-raw --patch-with-stat --minimal --patience --histogram --numstat "
    "--shortstat --summary --compact-summary --name-only --name-status --no-color --no-renames --check --full-index "
    "--binary -R -a --text -b -w --ignore-space-change --ignore-all-space --ignore-space-at-eol --ignore-cr-at-eol "
    "--ignore-blank-lines -W --function-context --exit-code --quiet --no-prefix --pickaxe-all --pickaxe-regex -z "
    "--cumulative --find-copies-harder --no-ext-diff --no-textconv --no-relative --no-indent-heuristic",
    "-S -G -l --diff-filter --diff-algorithm --anchored --inter-hunk-context --word-diff-regex --src-prefix "
    "--dst-prefix --line-prefix --ws-error-highlight",
    "--stat --dirstat --abbrev -U --unified --color --word-diff -M -C -B --find-renames --find-copies "
    "--break-rewrites --relative --color-moved",
)
_LOG = _DIFF | options(
    "--oneline --graph --no-graph --no-decorate --all --merges --no-merges --first-parent --follow --reverse "
    "--date-order --topo-order --author-date-order -g --walk-reflogs --cherry --cherry-pick --cherry-mark --left-right "
    "--left-only --right-only --boundary --simplify-by-decoration --full-history --dense --sparse --simplify-merges "
    "--full-diff --abbrev-commit --no-abbrev-commit --parents --children -i --regexp-ignore-case -E "
    "--extended-regexp -F --fixed-strings --all-match --invert-grep --no-notes --source --use-mailmap --no-use-mailmap "
    "--mailmap --no-mailmap -c --cc -m --relative-date --log-size",
    "-n --max-count --skip --since --after --until --before --author --committer --grep -L --glob --exclude "
    "--min-parents --max-parents",
    "--format --pretty --date --decorate --branches --tags --remotes --no-walk --ancestry-path --notes",
    counts=True,
)
_SUBCOMMANDS: Mapping[str, Options] = {
    "diff": _DIFF
    | options("--cached --staged --merge-base -0 -1 -2 -3 --base --ours --theirs --cc --combined-all-paths"),
    "log": _LOG,
    "show": _LOG,
    "status": options(
        "-s --short -b --branch --no-branch --show-stash --long -z --ahead-behind --no-ahead-behind --renames "
        "--no-renames",
        "",
        "--porcelain -u --untracked-files --ignored --find-renames",
    ),
    "rev-parse": options(
        "--verify -q --quiet --symbolic --symbolic-full-name --all --show-toplevel --show-prefix --show-cdup "
        "--is-inside-work-tree --is-bare-repository --is-shallow-repository --revs-only --no-revs --flags --no-flags",
        "",
        "--short --abbrev-ref --branches --tags --remotes --show-object-format",
    ),
    "ls-files": options(
        "-c --cached -d --deleted -m --modified -o --others -i --ignored -s --stage -u --unmerged -k --killed -z -t -v "
        "--directory --no-directory --no-empty-directory --exclude-standard --full-name --error-unmatch --eol "
        "--deduplicate --sparse",
        "-x --exclude",
        "--abbrev --format",
    ),
}

# Repeated on the command line, should a git not know what the configuration says. `dirty`: no git is started in a
# submodule, whose own configuration would hold there.
_LOOKING_ON = ("--no-ext-diff", "--no-textconv", "--ignore-submodules=dirty")
_ADDED: Mapping[str, Sequence[str]] = {
    "diff": _LOOKING_ON,
    "log": _LOOKING_ON,
    "show": _LOOKING_ON,
    "status": ("--ignore-submodules=dirty",),
}
_WIDER = "paths must lie in the repository: write one relative to it, without `..`"


def read_git_arguments(arguments: Sequence[str]) -> tuple[str, ...]:
    """Subcommand and arguments as they are to be run. Raises ToolFailed with what to write instead."""
    known = ", ".join(_SUBCOMMANDS)
    if not arguments:
        raise ToolFailed("argument_refused", f"git needs a subcommand: write one of {known}.")
    subcommand, *words = arguments
    allowed = _SUBCOMMANDS.get(subcommand)
    if allowed is None:
        raise refused("git", subcommand, f"it is no subcommand that only looks on: write one of {known} first")
    for operand in read_words(f"git {subcommand}", words, allowed).operands:
        _check_inside(subcommand, operand)
    return (subcommand, *_ADDED.get(subcommand, ()), *words)


def _check_inside(subcommand: str, operand: str) -> None:
    """`git diff` compares any two files of the machine once one of them lies outside, as if by --no-index."""
    if operand.startswith("/") or ".." in operand.split("/"):
        raise refused(f"git {subcommand}", operand, _WIDER)
