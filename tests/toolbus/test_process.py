"""Programs: real small ones are run, bounded, killed with all their kin, and refused."""

# ruff: noqa: ASYNC240 -- small files on the machine itself

import os
import resource
import signal
import sys
import time
from pathlib import Path

import pytest
import trio

from appliance.toolbus import spawning
from appliance.toolbus.base import ToolFailed
from appliance.toolbus.process import run_program
from appliance.toolbus.program import PATH, Limits
from appliance.toolbus.scratch import open_scratch
from tests.toolbus.programs import (
    GONE_S,
    SH,
    is_there,
    nothing_left,
    pids,
    program,
    run,
    run_python,
    run_sh,
    wait_for_file,
)


async def test_output_exit_status_and_costs_are_told() -> None:
    result = await run_sh("cat; echo bad >&2; exit 3", stdin=b"said\n")
    assert (result.returncode, result.stdout, result.stderr) == (3, "said\n", "bad\n")
    assert (result.timed_out, result.stdout_cut) == (False, False)
    assert result.io_bytes == 5 + 5 + 4
    assert 0 < result.cpu_s < 5


async def test_cpu_of_children_that_were_waited_for_counts() -> None:
    result = await run_sh(f"{sys.executable} -ISc 'import time\nwhile time.process_time() < 0.2: pass'")
    assert result.cpu_s >= 0.2


async def test_a_signal_is_told_as_its_number() -> None:
    assert (await run_sh("kill -SEGV $$")).returncode == -11


async def test_no_shell_reads_the_arguments() -> None:
    result = await run("/usr/bin/printf", "%s|", "$HOME", "`id`", "a b", "*", "", "; id")
    assert result.stdout == "$HOME|`id`|a b|*||; id|"


async def test_the_environment_is_made_from_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_BEARER_TOKEN", "a-secret")
    monkeypatch.setenv("LD_LIBRARY_PATH", "/tmp/_MEIxyz")  # as PyInstaller's executable has it
    monkeypatch.setenv("LD_LIBRARY_PATH_ORIG", "/opt/lib")
    monkeypatch.setenv("LD_PRELOAD", "")
    result = await run("/bin/cat", "/proc/self/environ")
    variables = dict(line.split("=", 1) for line in result.stdout.rstrip("\0").split("\0"))
    home = variables["HOME"]
    assert variables == {"PATH": PATH, "HOME": home, "TMPDIR": home, "LANG": "C.UTF-8"}
    assert not Path(home).exists()


async def test_only_the_three_standard_descriptors_are_passed_on() -> None:
    read, write = os.pipe()
    os.set_inheritable(write, True)
    try:
        result = await run("/bin/ls", "-1", "/proc/self/fd")
    finally:
        os.close(read)
        os.close(write)
    assert result.stdout.split() == ["0", "1", "2", "3"]  # 3 is the directory that ls reads


async def test_a_program_leads_a_session_and_a_group_of_its_own() -> None:
    result = await run_python("import os; print(os.getpid(), os.getpgid(0), os.getsid(0))")
    assert len(set(pids(result.stdout))) == 1


async def test_limits_hold_in_the_program() -> None:
    limits = Limits(memory_bytes=1 << 30, file_bytes=4096, open_files=32, processes=7)
    result = await run("/bin/cat", "/proc/self/limits", limits=limits, timeout_s=7.5)
    held = {line[:26].strip(): line[26:].split()[:2] for line in result.stdout.splitlines()}
    cpu = 8 * (os.cpu_count() or 1)
    assert held["Max cpu time"] == [str(cpu), str(cpu + 1)]
    assert held["Max address space"] == [str(1 << 30)] * 2
    assert held["Max file size"] == ["4096"] * 2
    assert held["Max open files"] == ["32"] * 2
    assert held["Max core file size"] == ["0"] * 2
    assert 7 < int(held["Max processes"][0]) <= 7 + resource.getrlimit(resource.RLIMIT_NPROC)[1]


@pytest.mark.parametrize("wrapped", [True, False])
async def test_memory_and_file_size_are_bounded(monkeypatch: pytest.MonkeyPatch, wrapped: bool) -> None:
    if not wrapped:
        monkeypatch.setattr(spawning, "_PRLIMIT", "/nonexistent")
    limits = Limits(memory_bytes=1 << 28, file_bytes=8192)
    started = "import time; time.sleep(0.05)\n" if not wrapped else ""  # set from outside: just after the start
    hungry = await run_python(f"{started}bytearray(1 << 29)", limits=limits)
    assert "MemoryError" in hungry.stderr
    long = await run_python(f"{started}open('f', 'wb').write(b'x' * 100_000)", limits=limits)
    assert "File too large" in long.stderr or long.returncode < 0


async def test_a_limit_above_our_own_is_lowered_to_it() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    result = await run("/bin/sh", "-c", "ulimit -n", limits=Limits(open_files=hard + 1, processes=1 << 40))
    assert (result.returncode, result.stdout.strip()) == (0, str(hard))


async def test_no_memory_limit_means_none() -> None:
    assert (await run_sh("ulimit -v", limits=Limits(memory_bytes=0))).stdout.strip() == "unlimited"


async def test_the_last_of_an_endless_output_is_kept_until_the_deadline() -> None:
    result = await run_sh("yes ab", timeout_s=0.3, stdout_max_chars=100)
    assert (result.timed_out, result.returncode) == (True, -9)
    assert len(result.stdout) == 100
    assert set(result.stdout) == set("ab\n")
    assert result.stdout_cut
    assert result.io_bytes > 1_000_000


async def test_output_before_the_deadline_is_not_lost() -> None:
    result = await run_sh("echo first; echo oh >&2; sleep 100", timeout_s=0.3)
    assert (result.timed_out, result.stdout, result.stderr) == (True, "first\n", "oh\n")


@pytest.mark.parametrize("script", ["exec sleep 0.05", "exec <&-; sleep 0.05", "head -c 1 >/dev/null", "exit 0"])
async def test_a_program_need_not_read_its_stdin(script: str) -> None:
    async with nothing_left():
        result = await run_sh(script, stdin=b"x" * 5_000_000)
    assert (result.returncode, result.timed_out) == (0, False)


async def test_five_megabytes_go_through() -> None:
    result = await run("/bin/cat", stdin=b"x" * 5_000_000, stdout_max_chars=10_000_000)
    assert len(result.stdout) == 5_000_000
    assert result.io_bytes == 10_000_000


async def test_an_empty_stdin_is_at_its_end() -> None:
    assert (await run("/bin/cat")).stdout == ""


async def test_a_grandchild_that_holds_the_pipes_does_not_hold_the_answer() -> None:
    before = time.monotonic()
    result = await run_sh("sleep 100 & echo $!; echo done", stdin=b"x" * 1_000_000)
    assert result.stdout.split()[1:] == ["done"]
    assert not is_there(int(result.stdout.split()[0]))
    assert time.monotonic() - before < 50


async def test_a_grandchild_that_writes_for_ever_does_not_hold_the_answer() -> None:
    result = await run_sh("yes & sleep 0.05", stdout_max_chars=10)
    assert (result.returncode, result.timed_out) == (0, False)


ESCAPES = {
    "group": "sleep 100 & echo $!",
    "deaf": "sh -c 'trap \"\" TERM HUP INT; sleep 100 & wait' & echo $!",
    "own group": f"{sys.executable} -ISc 'import os, time; os.setpgid(0, 0); time.sleep(100)' & echo $!",
    "own session": "setsid sleep 100 & echo $!",
    "quiet daemon": "setsid sh -c 'echo $$; exec sleep 100 >/dev/null 2>&1 </dev/null' &",
    "daemon's child": "setsid sh -c 'setsid sh -c \"sleep 100 & echo \\$!; exec sleep 100 >/dev/null 2>&1\" &' &",
}


@pytest.mark.parametrize("end", ["exit", "timeout", "cancel"])
@pytest.mark.parametrize("way", ESCAPES)
async def test_whoever_escapes_is_killed_with_the_rest(tmp_path: Path, way: str, end: str) -> None:
    told = tmp_path / "pids"
    last = "exit 0" if end == "exit" else "exec sleep 100"
    script = f"({ESCAPES[way]}) > {told}.new; sleep 0.03; mv {told}.new {told}; {last}"
    async with nothing_left():
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                if end == "cancel":
                    nursery.start_soon(cancel_when_told, scope, told)
                result = await run_sh(script, timeout_s=0.5 if end == "timeout" else 20.0)
        assert scope.cancelled_caught == (end == "cancel")
        if end != "cancel":
            assert result.timed_out == (end == "timeout")
    found = list(pids(told.read_text()))
    assert found
    await gone(found)


async def cancel_when_told(scope: trio.CancelScope, told: Path) -> None:
    await wait_for_file(told)
    scope.cancel()


async def gone(found: list[int]) -> None:
    with trio.fail_after(GONE_S):
        while any(is_there(pid) for pid in found):  # noqa: ASYNC110 -- another process has no event
            await trio.sleep(0.005)


async def test_who_cleans_its_environment_and_leaves_is_found_by_its_parent(tmp_path: Path) -> None:
    script = "env -i setsid sh -c 'echo $$; exec sleep 100' & sleep 100"
    result = await run_sh(script, timeout_s=0.4)
    await gone(list(pids(result.stdout)))


async def test_orphans_of_a_gateway_that_is_process_one_are_buried() -> None:
    """A process that adopts orphans, as process 1 of a container does, runs programs that leave some."""
    script = """
import ctypes, os, sys
sys.path[:0] = [p for p in sys.argv[1].split(":") if p]
assert ctypes.CDLL(None).prctl(36, 1, 0, 0, 0) == 0  # PR_SET_CHILD_SUBREAPER
import trio
from tests.toolbus.programs import children, run_sh
async def main():
    await run_sh("(sleep 100 &) ; (true &) ; (setsid sleep 100 &); sleep 0.05")
    print(sorted(children()))
trio.run(main)
"""
    completed = await trio.run_process(
        [sys.executable, "-c", script, ":".join(sys.path)], capture_stdout=True, cwd=Path(__file__).parents[2]
    )
    assert completed.stdout == b"[]\n"


async def test_nobody_else_is_killed() -> None:
    stranger = await trio.lowlevel.open_process(["/bin/sleep", "100"], start_new_session=True)
    await run_sh("sleep 100 & exit 0")
    assert stranger.poll() is None
    stranger.kill()
    await stranger.wait()


async def test_two_at_a_time_do_not_meet() -> None:
    results: dict[int, str] = {}

    async def one(number: int) -> None:
        results[number] = (await run_sh(f"setsid sleep 100 & sleep 0.{number}; echo {number}")).stdout

    async with nothing_left():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one, 1)
            nursery.start_soon(one, 2)
    assert results == {1: "1\n", 2: "2\n"}


@pytest.mark.parametrize(
    ("content", "mode", "kind"),
    [
        (None, 0, "program_not_found"),
        ("#!/bin/sh\n", 0o644, "program_not_executable"),
        ("echo I am no script\n", 0o755, "program_bad_format"),
        ("#!/nonexistent/interpreter\n", 0o755, "program_not_found"),
        ("#!/etc/passwd\n", 0o755, "program_not_executable"),
        ("\x7fELF\x02\x01\x01" + "\0" * 11 + "\x16\0" + "\0" * 100, 0o755, "program_bad_format"),  # an s390's
    ],
)
@pytest.mark.parametrize("wrapped", [True, False])
async def test_what_cannot_be_started_is_refused_with_a_stable_kind(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str | None, mode: int, kind: str, wrapped: bool
) -> None:
    if not wrapped:
        monkeypatch.setattr(spawning, "_PRLIMIT", "/nonexistent")
    path = tmp_path / "thing"
    if content is not None:
        path.write_bytes(content.encode("latin-1"))
        path.chmod(mode)
    async with nothing_left():
        with pytest.raises(ToolFailed) as caught:
            await run(str(path), "secret")
    assert caught.value.kind == kind
    assert caught.value.message.startswith("thing ")
    assert str(tmp_path) not in caught.value.message


async def test_a_directory_and_too_many_arguments_are_refused() -> None:
    for argv, kind in (
        (("/etc",), "program_not_executable"),
        (("/etc/passwd/x",), "program_not_found"),
        ((SH, "x" * 200_000), "arguments_too_long"),
        ((SH, "a\0b"), "bad_argument"),
        ((SH, "\ud800"), "bad_argument"),
    ):
        with pytest.raises(ToolFailed) as caught:
            await run(*argv)
        assert caught.value.kind == kind


async def test_a_directory_to_run_in_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(ToolFailed) as caught:
        await run_program(program(tmp_path, SH, cwd=tmp_path / "none"))
    assert caught.value.kind == "cwd_missing"


async def test_a_program_that_may_be_executed_and_not_read_runs(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root reads everything")
    path = tmp_path / "true"
    path.write_bytes(Path("/bin/true").read_bytes())
    path.chmod(0o111)
    assert (await run(str(path))).returncode == 0


async def test_where_processes_have_no_descriptors_a_thread_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(pid: int) -> int:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(os, "pidfd_open", unknown)
    async with nothing_left():
        assert (await run_sh("echo hi")).stdout == "hi\n"
        result = await run_sh("setsid sleep 100 & echo $!; sleep 100", timeout_s=0.2)
        assert result.timed_out
        await gone(list(pids(result.stdout)))


async def test_who_may_not_be_killed_does_not_hold_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """What root's program, started by sudo, leaves behind: here, a sleep that the system will not let us kill."""
    send = signal.pidfd_send_signal

    def refuse(descriptor: int, number: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(signal, "pidfd_send_signal", refuse)
    result = await run_sh("setsid sleep 100 >/dev/null 2>&1 & echo $!")
    assert (result.returncode, result.timed_out) == (0, False)
    (stranger,) = pids(result.stdout)
    descriptor = os.pidfd_open(stranger)
    send(descriptor, signal.SIGKILL)
    os.close(descriptor)


async def test_a_scratch_directory_is_private_and_gone_afterwards() -> None:
    async with open_scratch() as directory:
        assert directory.stat().st_mode & 0o777 == 0o700
        (directory / "kept").symlink_to("/etc")
        (directory / "deep" / "er").mkdir(parents=True)
    assert not directory.exists()
    assert Path("/etc/passwd").exists()


async def test_no_scratch_directory_is_a_tools_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/nonexistent")
    with pytest.raises(ToolFailed) as caught:
        async with open_scratch():
            raise AssertionError("unreachable")
    assert caught.value.kind == "no_scratch"
