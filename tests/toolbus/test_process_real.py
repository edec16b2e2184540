"""Programs at their worst: gigabytes of output, bombs, hundreds of runs, and a look from outside by strace."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from appliance.toolbus.program import Limits
from tests.real.debian import NotAvailable, find_strace
from tests.toolbus.programs import SH, children, descriptors, marked, nothing_left, run, run_python, run_sh
from tests.toolbus.repositories import make_repository, sign_commit

pytestmark = pytest.mark.real
ROOT = Path(__file__).parents[2]


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def test_a_gigabyte_of_output_takes_no_memory() -> None:
    await run_sh("echo warm")
    before = resident_bytes()
    result = await run("/usr/bin/head", "-c", "1000000000", "/dev/zero", timeout_s=120, stdout_max_chars=20_000)
    assert resident_bytes() - before < 10_000_000
    assert (result.returncode, result.io_bytes, len(result.stdout)) == (0, 1_000_000_000, 20_000)


async def test_hundreds_of_runs_leave_no_descriptor_thread_or_process() -> None:
    for _ in range(3):
        await run_sh("exit 0")
    before = descriptors(), children(), resident_bytes()
    for number in range(200):
        script = ["exit 0", "echo x; exit 3", "sleep 100 & exit 0", "setsid sleep 100 & sleep 100"][number % 4]
        await run_sh(script, stdin=b"x" * (number % 3) * 100_000, timeout_s=0.2 if number % 4 == 3 else 20)
    assert descriptors() == before[0]
    assert children() == before[1]
    assert resident_bytes() - before[2] < 20_000_000


async def test_many_at_a_time_do_not_meet() -> None:
    async def one() -> None:
        assert (await run_sh("setsid sleep 100 & echo hi; sleep 0.1")).stdout == "hi\n"

    async with nothing_left():
        async with trio.open_nursery() as nursery:
            for _ in range(30):
                nursery.start_soon(one)


async def test_a_bomb_of_deaf_processes_in_sessions_of_their_own_is_killed(tmp_path: Path) -> None:
    """Bounded by its depth: 2^8 leaves, every other one in a session of its own."""
    bomb = """
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.signal(signal.SIGHUP, signal.SIG_IGN)
for level in range(8):
    if os.fork() == 0 and level % 2:
        os.setsid()
time.sleep(100)
"""
    async with nothing_left():
        result = await run_python(bomb, timeout_s=1.5)
    assert result.timed_out
    assert marked(Path("/tmp/appliance-run-")) == set()


async def test_a_user_is_kept_from_forking_without_end() -> None:
    """Root is exempt from this limit (setrlimit(2)), so the program becomes somebody else first; bounded by itself."""
    if os.geteuid() != 0:
        pytest.skip("becoming somebody else takes root")
    bomb = """
import os, time
made = 0
try:
    while made < 3000:
        if os.fork() == 0:
            time.sleep(100)
        made += 1
except BlockingIOError:
    print("stopped", made)
"""
    other = ("/usr/bin/setpriv", "--reuid=65534", "--clear-groups", "--", "/usr/bin/python3", "-ISc", bomb)
    async with nothing_left():
        result = await run(*other, limits=Limits(processes=20), timeout_s=60)
    assert result.stdout.startswith("stopped"), result
    assert int(result.stdout.split()[1]) < 2500


@pytest.fixture
def strace() -> Iterator[Path]:
    try:
        yield find_strace()
    except NotAvailable as reason:
        pytest.skip(str(reason))


def executed(strace: Path, tmp_path: Path, script: str) -> list[str]:
    """The programs that reached execve(2), by path, while a Python ran this with a `call` for tools.

    `true` marks where that begins: importing trio runs ldconfig.
    """
    log = tmp_path / "trace"
    prelude = f"""
import subprocess, sys, trio
sys.path[:0] = {[*filter(None, sys.path), str(ROOT)]!r}
from pathlib import Path
from appliance.toolbus.base import ToolFailed
from appliance.toolbus.builtin import git, shell
from tests.toolbus.environments import make_environment
subprocess.run(["/bin/true"], check=True)
async def call(tool, arguments, **settings):
    try:
        print((await tool.make(make_environment(**settings)).run(arguments)).fields)
    except ToolFailed as failure:
        print(failure.kind)
"""
    body = (
        prelude
        + "async def main():\n"
        + "".join(f"    {line}\n" for line in script.strip().splitlines())
        + "trio.run(main)"
    )
    command = [
        str(strace),
        "-f",
        "-qq",
        "-e",
        "trace=execve",
        "-e",
        "signal=none",
        "-o",
        str(log),
        sys.executable,
        "-c",
        body,
    ]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    if "ptrace" in done.stderr and done.returncode != 0:
        pytest.skip("tracing is not permitted here")
    assert done.returncode == 0, done.stderr
    found = re.findall(r'execve\("([^"]+)".* = 0$', log.read_text(), re.MULTILINE)
    return found[found.index("/bin/true") + 1 :]


REFUSED = [
    "ls | touch made", "sort -o made /etc/hostname", "find . -exec touch made ;", "find . -delete", "sh -c id",
    "touch made", "./ls", "awk 'BEGIN{system(\"touch made\")}'", "tar -cf made .", "env touch made", "rg --pre=sh x",
    "git -c core.pager=sh log", "git diff --no-index a b", "$(touch made)", "ls > made",
]  # fmt: skip


def test_refused_commands_never_reach_execve(strace: Path, tmp_path: Path) -> None:
    allowed = "ls,sort,find,sh,awk,tar,env,rg,git,echo"
    script = "\n".join(
        f"await call(shell, {{'cmd': {cmd!r}}}, tools_shell_allowed_cmds={allowed!r}, tools_shell_cwd=Path({str(tmp_path)!r}))"
        for cmd in [*REFUSED, "echo allowed"]
    )
    assert [Path(path).name for path in executed(strace, tmp_path, script)] == ["prlimit", "echo"]
    assert not (tmp_path / "made").exists()


def test_git_in_a_hostile_repository_executes_git_alone(strace: Path, tmp_path: Path) -> None:
    repository = make_repository(tmp_path)
    repository.write(".gitattributes", "a diff=evil filter=evil\n")
    repository.commit()
    evil = str(repository.evil)
    repository.configure(
        core__fsmonitor=evil, diff__external=evil, diff__evil__textconv=evil, filter__evil__clean=evil,
        core__pager=evil, gpg__program=evil, core__sshCommand=evil, core__hooksPath=str(repository.home),
    )  # fmt: skip
    repository.write("a", "two\n")
    asked = [["status"], ["diff"], ["log", "-p"], ["show"], ["ls-files", "-m"], ["rev-parse", "HEAD"]]
    asked.append(["log", "--format=%G?"])  # of a signed commit: the machine's own gpg is not run either
    sign_commit(repository)
    script = "\n".join(
        f"await call(git, {{'args': {words!r}}}, tools_git_cwd=Path({str(repository.path)!r}))" for words in asked
    )
    programs = [Path(path).name for path in executed(strace, tmp_path, script)]
    assert set(programs) == {"prlimit", "git"}
    assert programs.count("git") == 2 * len(asked)
    assert not repository.mark.exists()


def test_no_shell_stands_between(strace: Path, tmp_path: Path) -> None:
    script = "await call(shell, {'cmd': 'echo a'}, tools_shell_allowed_cmds='echo')"
    assert SH not in executed(strace, tmp_path, script)
