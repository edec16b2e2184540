"""Cancellations: a request may go at any step of its program, and leaves neither process nor descriptor nor directory."""

import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

from appliance.config.tool_registry import DeclaredTool
from appliance.toolbus.builtin import git, shell
from appliance.toolbus.declared import make_declared
from tests.toolbus.environments import make_environment
from tests.toolbus.programs import nothing_left, run_sh, until_unmarked
from tests.toolbus.repositories import make_repository

MANY_STEPS = 400


class CancelAtStep(trio.abc.Instrument):
    """Cancels when the tasks of a run have made so many steps."""

    def __init__(self, scope: trio.CancelScope, steps: int) -> None:
        self.scope = scope
        self.left = steps

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self.left -= 1
        if self.left == 0:
            self.scope.cancel()


async def a_script() -> None:
    await run_sh("setsid sleep 100 & cat >/dev/null; echo done; exit 0", stdin=b"x" * 200_000)


async def a_shell() -> None:
    await shell.make(make_environment(tools_shell_allowed_cmds="echo")).run({"cmd": "echo hi"})


async def a_declared_tool() -> None:
    tool = DeclaredTool(name="mine", version="1", description="", parameters={}, argv=("cat",))
    await make_declared(tool, make_environment()).run({"a": 1})


@pytest.mark.parametrize("start", [a_script, a_shell, a_declared_tool])
async def test_cancelled_at_each_step_nothing_is_left(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, start: Callable[[], Awaitable[None]]
) -> None:
    await cancel_at_each_step(monkeypatch, tmp_path, start)


async def test_git_cancelled_at_each_step_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    repository = make_repository(tmp_path)

    async def look() -> None:
        await git.make(make_environment(tools_git_cwd=repository.path)).run({"args": ["status"]})

    await cancel_at_each_step(monkeypatch, tmp_path, look)


async def cancel_at_each_step(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, start: Callable[[], Awaitable[None]]
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    await start()  # trio's own descriptors and threads are there from now on
    for steps in range(1, MANY_STEPS):
        async with nothing_left():
            with trio.CancelScope() as scope:
                instrument = CancelAtStep(scope, steps)
                trio.lowlevel.add_instrument(instrument)
                try:
                    await start()
                finally:
                    trio.lowlevel.remove_instrument(instrument)
        assert list(temporary.iterdir()) == [], f"after step {steps}"
        assert await until_unmarked(temporary) == set(), f"after step {steps}"
        if not scope.cancelled_caught and instrument.left > 0:
            break
    else:
        raise AssertionError("more steps than a run has")
    assert steps > 10


async def test_a_run_waits_neither_for_a_free_thread_nor_for_ever() -> None:
    """Every thread of trio's is taken: the program does not start, and the caller's clock is kept."""
    threads = trio.to_thread.current_default_thread_limiter()
    taken = [object() for _ in range(int(threads.available_tokens))]
    for who in taken:
        threads.acquire_on_behalf_of_nowait(who)
    try:
        with trio.move_on_after(0.1) as scope:
            await run_sh("exit 0")
        assert scope.cancelled_caught
    finally:
        for who in taken:
            threads.release_on_behalf_of(who)
