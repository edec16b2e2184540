"""Shell rules: for each well-known program the arguments by which it would run others, or write where it was not told.

A program that is not here gets any argument: who allowed it vouches for all of its options.
"""

import re
import shlex
from collections.abc import Callable, Mapping, Sequence

from appliance.toolbus.arguments import check_denied, options, read_words, refused
from appliance.toolbus.base import ToolFailed

Words = Sequence[str]
Rule = Callable[[str, Words], Words]
"""A program's name and arguments, to the arguments it is run with. Raises ToolFailed."""

_RUNS = "it would run another program"
_WRITES = "it would write a file"

# They exist to run what they are told, or let their user do so: no list of options makes that safe.
_RUNNERS = frozenset(
    shlex.split(
        """
sh bash rbash dash ash zsh ksh ksh93 mksh fish csh tcsh pwsh busybox toybox env xargs nohup nice ionice timeout setsid
setpriv setarch linux64 linux32 unshare nsenter chroot fakeroot sudo sudoedit su doas runuser pkexec run0 ssh slogin
sshpass rsh rlogin mosh sftp scp rsync ftp lftp telnet nc ncat netcat socat curl wget aria2c watch entr parallel script
scriptreplay expect unbuffer time strace ltrace gdb lldb perf valgrind stdbuf chrt taskset numactl cgexec flock prlimit
choom systemd-run systemctl at batch crontab start-stop-daemon run-parts make gmake cmake ninja m4 gm4 bc dc ed red ex
vi vim rvim view vimdiff nvim nano pico emacs emacsclient less more most lesspipe pg man info python pythonw pypy perl
ruby irb node nodejs deno bun php lua luajit tclsh wish guile java jshell scala kotlin groovy R Rscript julia octave
ghci runghc ocaml elixir erl iex swift go cargo rustc gcc cc g++ c++ clang tcc ld as npm npx yarn pnpm pip pipx uv uvx
poetry docker podman nerdctl kubectl crictl lxc virsh apt apt-get aptitude dpkg rpm yum dnf apk pacman snap flatpak
sqlite3 psql mysql mariadb redis-cli mongosh zip ip tmux screen dtach capsh gpg openssl ffmpeg tcpdump dumpcap
logrotate split mount umount eval exec command builtin source dbus-send busctl scalar
"""
    )
)

_FIND_DENIED = ("-exec", "-ok", "-delete", "-fprint", "-fls")
_AWK_REFUSED = {
    "system": _RUNS, ">": _WRITES, "@": _RUNS, "getline": "it would read what it was not given",
    "ARGV": "it would read what it was not given", "/inet": "it would open a connection", "\\\n": "it hides a word",
    "\\\r": "it hides a word",
}  # fmt: skip


def rule_of(*names: str) -> Rule | None:
    """The rule of a program by its names: what it was called, and what that leads to. The strictest, if several."""
    known = [name for name in names for name in (name, _without_version(name)) if name in _RULES or _is_runner(name)]
    if any(_is_runner(name) for name in known):
        return _never
    return _RULES[known[0]] if known else None


def _without_version(name: str) -> str:
    """python3.11 is python, x86_64-linux-gnu-gcc-12 is gcc."""
    return re.sub(r"[-.]?[0-9][-.0-9]*$", "", re.sub(r"^.*-linux-gnu[a-z0-9]*-", "", name))


def _is_runner(name: str) -> bool:
    return name in _RUNNERS or name.startswith(("git-", "ld-linux", "ld.so", "ld-musl"))


def _never(program: str, words: Words) -> Words:
    raise ToolFailed(
        "command_not_allowed",
        f"{program} runs whatever it is told, or goes where it likes: declare a tool that calls it with fixed arguments.",
    )


def _deny(why: str, letters: str, *names: str) -> Rule:
    def rule(program: str, words: Words) -> Words:
        check_denied(program, words, letters, names, why)
        return words

    return rule


def _find(program: str, words: Words) -> Words:
    for word in words:
        if word.startswith(_FIND_DENIED):
            raise refused(program, word, "it would run another program, or write or delete files")
    return words


_SED = options(
    "-n -E -r -s -u -z --quiet --silent --regexp-extended --separate --unbuffered --zero-terminated --null-data --posix",
    "-e -l --expression --line-length",
)


def _sed(program: str, words: Words) -> Words:
    """GNU's own --sandbox refuses the commands `e`, `r` and `w` where it reads them; another sed does not know it."""
    read_words(program, words, _SED)
    return ("--sandbox", *words)


_AWK = options("", "-F -v")


def _awk(program: str, words: Words) -> Words:
    """awk has no sandbox that all of them know: a word that could be part of harm is refused wherever it stands."""
    read_words(program, words, _AWK)
    for word in words:
        for part, why in _AWK_REFUSED.items():
            if part in word:
                raise refused(program, word, f"{part!r} is not for awk here, as {why}")
        if "|" in word.replace("||", ""):
            raise refused(program, word, "'|' is not for awk here, as it would run another program")
    return words


_TAR = options(
    "-t -x -v -z -j -J -O --list --extract --get --verbose --gzip --gunzip --bzip2 --xz --lzma --zstd --to-stdout "
    "--wildcards --numeric-owner --full-time --utc",
    "-f --file --exclude --occurrence",
)


def _tar(program: str, words: Words) -> Words:
    """Lists, and writes members to stdout. `host:file` is a file: tar would call rsh."""
    found = read_words(program, words, _TAR)
    if not words or not words[0].startswith("-"):
        raise refused(program, words[0] if words else "", "write its options with a dash: -tf or -xOf")
    if found.options & {"-x", "--extract", "--get"} and not found.options & {"-O", "--to-stdout"}:
        raise refused(program, words[0], "it would write files: write members to stdout with -O")
    return ("--force-local", *words)


def _one_operand(program: str, words: Words) -> Words:
    """The second one is where it writes."""
    operands = [word for word in words if not word.startswith("-") or word == "-"]
    if len(operands) > 1:
        raise refused(program, operands[1], "it would be written to: name one file, and write values in the same word")
    return words


_RULES: Mapping[str, Rule] = {
    "awk": _awk, "gawk": _awk, "mawk": _awk, "nawk": _awk, "original-awk": _awk,
    "diff3": _deny(_RUNS, "", "--diff-program"),
    "sdiff": _deny("it would run another program, or write a file", "o", "--diff-program", "--output"),
    "date": _deny("it would set the clock", "s", "--set"),
    "fd": _deny(_RUNS, "xXl", "--exec", "--exec-batch", "--list-details"),
    "fdfind": _deny(_RUNS, "xXl", "--exec", "--exec-batch", "--list-details"),
    "file": _deny("it would run another program, or write a file", "CzZ", "--compile", "--uncompress", "--uncompress-noreport"),
    "find": _find,
    "iconv": _deny(_WRITES, "o", "--output"),
    "jq": _deny("it would read code of others", "L", "--library-path"),
    "rg": _deny(_RUNS, "z", "--pre", "--hostname-bin", "--search-zip"),
    "ripgrep": _deny(_RUNS, "z", "--pre", "--hostname-bin", "--search-zip"),
    "sed": _sed, "gsed": _sed,
    "shuf": _deny(_WRITES, "o", "--output"),
    "sort": _deny("it would run another program, or write a file", "oT", "--compress-program", "--output", "--temporary-directory"),
    "tar": _tar, "gtar": _tar, "bsdtar": _never,
    "tree": _deny(_WRITES, "oR", "--output"),
    "uniq": _one_operand,
    "xmllint": _deny(_WRITES, "", "--output", "-output", "--shell", "-shell"),
    "xxd": _one_operand,
    "yq": _deny(_WRITES, "is", "--inplace", "--in-place", "--split-exp"),
}  # fmt: skip
