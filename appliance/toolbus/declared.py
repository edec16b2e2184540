"""Declared tools: a program of the operator's, with the arguments as JSON on its stdin."""

import shutil
from dataclasses import dataclass

import trio

from appliance.config.settings import Settings
from appliance.config.tool_registry import DeclaredTool
from appliance.protocol.canonical import canonical_json
from appliance.toolbus.base import Arguments, Outcome, Tool, ToolEnvironment, ToolFailed
from appliance.toolbus.outcomes import declared_outcome
from appliance.toolbus.process import run_program
from appliance.toolbus.program import PATH, bounded_program
from appliance.toolbus.scratch import open_scratch


def make_declared(tool: DeclaredTool, environment: ToolEnvironment) -> Tool:
    """The tool as the bus runs it. What its program does is the operator's affair, so it counts as doing something."""
    return Tool(
        name=tool.name,
        version=tool.version,
        description=tool.description,
        parameters=tool.parameters,
        side_effects=True,
        run=_Declared(tool, environment.settings, environment.files).run,
        source="registry",
    )


@dataclass(frozen=True, slots=True)
class _Declared:
    tool: DeclaredTool
    settings: Settings
    files: trio.CapacityLimiter

    async def run(self, arguments: Arguments) -> Outcome:
        path = await trio.to_thread.run_sync(self._find, limiter=self.files)
        async with open_scratch() as home:
            program = bounded_program(
                self.settings,
                (path, *self.tool.argv[1:]),
                home=home,
                cwd=self.tool.cwd or home,
                timeout_s=self.tool.timeout_s or self.settings.tools_shell_timeout_sec,
                stdin=canonical_json(dict(arguments)).encode(),
            )
            return declared_outcome(program, await run_program(program))

    def _find(self) -> str:
        first = self.tool.argv[0]
        found = first if "/" in first else shutil.which(first, path=PATH)
        if found is None:
            raise ToolFailed("program_not_found", f"{first} was not found: install it, or correct its path.")
        return found
