"""Programs to run in tests, and a look at what is left of them."""

# ruff: noqa: ASYNC240 -- small files on the machine itself

import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from appliance.toolbus.process import run_program
from appliance.toolbus.program import Program, ProgramResult
from appliance.toolbus.scratch import open_scratch

SH = "/bin/sh"
GONE_S = 5.0


async def run(*argv: str, **fields: Any) -> ProgramResult:
    """Run it in an empty directory of its own."""
    async with open_scratch() as home:
        return await run_program(program(home, *argv, **fields))


def program(home: Path, *argv: str, **fields: Any) -> Program:
    return Program(argv=argv, home=home, **{"cwd": home, "timeout_s": 20.0, **fields})


async def run_sh(script: str, **fields: Any) -> ProgramResult:
    return await run(SH, "-c", script, **fields)


async def run_python(script: str, **fields: Any) -> ProgramResult:
    return await run(sys.executable, "-I", "-S", "-c", script, **fields)


def is_there(pid: int) -> bool:
    """Running, or a zombie of ours; those of process 1 are its own affair."""
    state, parent = _state_and_parent(pid)
    return state not in {"", "Z"} or parent == os.getpid()


def children() -> set[int]:
    """Our own, zombies among them."""
    pids = map(int, filter(str.isdigit, os.listdir("/proc")))
    return {pid for pid in pids if _state_and_parent(pid)[1] == os.getpid()}


def _state_and_parent(pid: int) -> tuple[str, int]:
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return "", 0
    state, parent = text[text.rindex(b")") + 2 :].split()[:2]
    return state.decode(), int(parent)


def marked(directory: Path) -> set[int]:
    """Processes that were given this directory for their HOME, or one in it."""
    return {pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if _has_home(pid, directory)}


async def until_unmarked(directory: Path) -> set[int]:
    """Those that are still there when the killed have had time to go: the kernel takes a process apart as it can."""
    with trio.move_on_after(GONE_S):
        while marked(directory):  # noqa: ASYNC110 -- another process has no event
            await trio.sleep(0.002)
    return marked(directory)


def _has_home(pid: int, directory: Path) -> bool:
    try:
        return f"HOME={directory}".encode() in Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


async def wait_for_file(path: Path) -> str:
    """A program tells its numbers by a file, as nobody reads its pipes but the code under test."""
    with trio.fail_after(GONE_S):
        while not path.exists() or not path.read_text():  # noqa: ASYNC110 -- another process has no event
            await trio.sleep(0.002)
    return path.read_text()


@asynccontextmanager
async def nothing_left() -> AsyncIterator[None]:
    """Afterwards there is no child and no descriptor that was not there before."""
    before = children(), descriptors()
    yield
    assert (children() - before[0], descriptors() - before[1]) == (set(), set())


def pids(text: str) -> Iterator[int]:
    return map(int, text.split())
