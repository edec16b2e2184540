"""shell: runs one program of those that the operator allowed, without a shell."""

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import trio

from appliance.toolbus.base import Arguments, Outcome, Schema, Tool, ToolEnvironment, ToolFailed
from appliance.toolbus.commands import split_command
from appliance.toolbus.git_program import Git
from appliance.toolbus.outcomes import command_outcome
from appliance.toolbus.process import run_program
from appliance.toolbus.program import PATH, bounded_program
from appliance.toolbus.scratch import open_scratch
from appliance.toolbus.shell_rules import rule_of

_PARAMETERS: Schema = {
    "type": "object",
    "properties": {
        "cmd": {
            "type": "string",
            "description": "One program and its arguments, quoted as for sh; no pipes, no redirections, no patterns.",
            "minLength": 1,
            "maxLength": 32768,
        }
    },
    "required": ["cmd"],
    "additionalProperties": False,
}


def make(environment: ToolEnvironment) -> Tool:
    async def run(arguments: Arguments) -> Outcome:
        program, *words = split_command(arguments["cmd"])
        choose = partial(_choose, program, words, environment.settings.tools_shell_allowed_cmds)
        choice = await trio.to_thread.run_sync(choose, limiter=environment.files)
        return await _run(environment, choice)

    return Tool(
        name="shell",
        version="1",
        description="Run one allowed program with arguments; no shell reads the line.",
        parameters=_PARAMETERS,
        side_effects=True,
        run=run,
    )


def find_allowed(program: str, allowed: Sequence[str]) -> str:
    """Where an allowed program lies, by its name or absolute path. Raises ToolFailed for any other.

    It is one if it leads to the same file as an allowed one by the same last name: busybox and its like are many
    programs in one file, told apart by that. What is run is what the operator named.
    """
    if "/" in program and not os.path.isabs(program):
        raise _not_allowed(program, allowed)
    found = shutil.which(program, path=PATH)
    if found is None or (os.path.isabs(program) and os.path.normpath(program) != program):
        raise _not_allowed(program, allowed)
    for entry in allowed:
        named = shutil.which(entry, path=PATH) if os.path.isabs(entry) or "/" not in entry else None
        if named is not None and _same(named, found):
            return named
    raise _not_allowed(program, allowed)


def _same(one: str, other: str) -> bool:
    return os.path.basename(one) == os.path.basename(other) and os.path.realpath(one) == os.path.realpath(other)


def _not_allowed(program: str, allowed: Sequence[str]) -> ToolFailed:
    shown = program if len(program) <= 60 else f"{program[:60]}..."
    names = ", ".join(sorted({os.path.basename(entry) for entry in allowed}))
    hint = f"write one of {names}, by name" if names else "none is: list programs in TOOLS_SHELL_ALLOWED_CMDS"
    return ToolFailed("command_not_allowed", f"{shown!r} is not among the allowed programs: {hint}.")


@dataclass(frozen=True, slots=True)
class _Choice:
    """What will be run, by all the rules."""

    path: str
    words: Sequence[str]
    is_git: bool


def _choose(program: str, words: Sequence[str], allowed: Sequence[str]) -> _Choice:
    path = find_allowed(program, allowed)
    names = os.path.basename(path), os.path.basename(os.path.realpath(path))
    rule = rule_of(*names)
    return _Choice(path, words if rule is None else rule(names[0], words), is_git="git" in names)


async def _run(environment: ToolEnvironment, choice: _Choice) -> Outcome:
    settings = environment.settings
    timeout_s = settings.tools_shell_timeout_sec
    async with open_scratch() as scratch:
        cwd = settings.tools_shell_cwd or scratch
        if choice.is_git:
            return await Git(choice.path, cwd, timeout_s, settings, environment.files).run(choice.words)
        argv = (choice.path, *choice.words)
        program = bounded_program(settings, argv, home=scratch, cwd=cwd, timeout_s=timeout_s)
        return command_outcome(program, await run_program(program))
