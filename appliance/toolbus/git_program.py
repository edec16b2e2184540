"""Git as a program: arguments by the rules, a repository by its view, a run like any other."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import trio

from appliance.config.settings import Settings
from appliance.toolbus.base import Outcome, ToolFailed
from appliance.toolbus.git_repository import Repository, base_variables, find_repository, make_view, read_entries
from appliance.toolbus.git_rules import read_git_arguments
from appliance.toolbus.outcomes import command_outcome
from appliance.toolbus.process import run_program
from appliance.toolbus.program import PATH, bounded_program
from appliance.toolbus.scratch import open_scratch

_CONFIG_MAX_CHARS = 1_000_000


@dataclass(frozen=True, slots=True)
class Git:
    """Where git looks, and for how long. `program`: its name or path. `files`: the threads for file work."""

    program: str
    cwd: Path
    timeout_s: float
    settings: Settings
    files: trio.CapacityLimiter

    async def run(self, arguments: Sequence[str]) -> Outcome:
        """Raises ToolFailed for arguments that do more than look on, and where there is no repository."""
        words = read_git_arguments(arguments)
        deadline = trio.current_time() + self.timeout_s
        path = await trio.to_thread.run_sync(self._find, limiter=self.files)
        repository = await trio.to_thread.run_sync(find_repository, self.cwd, limiter=self.files)
        async with open_scratch() as scratch:
            listed = await self._configuration(path, repository, scratch)
            make = partial(make_view, repository, scratch / "git", list(read_entries(listed)))
            variables = await trio.to_thread.run_sync(make, limiter=self.files)
            rest_s = max(deadline - trio.current_time(), 0.001)
            argv = (path, "--no-pager", *words)
            bounded = bounded_program(self.settings, argv, home=scratch, cwd=self.cwd, timeout_s=rest_s)
            program = replace(bounded, variables=variables)
            return command_outcome(program, await run_program(program))

    async def _configuration(self, path: str, repository: Repository, scratch: Path) -> str:
        """What the repository's own file says, as text: reading runs nothing, and includes are not followed."""
        file = repository.common / "config"
        argv = (path, "config", f"--file={file}", "--no-includes", "--null", "--list")
        bounded = bounded_program(self.settings, argv, home=scratch, cwd=scratch, timeout_s=self.timeout_s)
        variables = {**base_variables(), "GIT_CEILING_DIRECTORIES": str(scratch.parent)}
        program = replace(bounded, variables=variables, stdout_max_chars=_CONFIG_MAX_CHARS)
        result = await run_program(program)
        if result.timed_out:
            raise ToolFailed("timeout", "The repository's configuration could not be read in time: look at its disk.")
        if result.returncode != 0 or result.stdout_cut:
            raise ToolFailed(
                "bad_repository", "The repository's configuration cannot be read: `git config --list` shows why."
            )
        return result.stdout

    def _find(self) -> str:
        found = shutil.which(self.program, path=PATH)
        if found is None:
            raise ToolFailed("program_not_found", "git was not found: install it.")
        return found
