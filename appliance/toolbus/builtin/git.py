"""git: looks at one repository, with the subcommands and options that only look on."""

from pathlib import Path

from appliance.config.settings import Settings
from appliance.toolbus.base import Arguments, Outcome, Schema, Tool, ToolEnvironment, ToolFailed
from appliance.toolbus.git_program import Git
from appliance.toolbus.outcomes import limits_of

_PARAMETERS: Schema = {
    "type": "object",
    "properties": {
        "args": {
            "type": "array",
            "description": 'Subcommand and arguments, one a string: ["log", "--oneline", "-5"].',
            "items": {"type": "string", "maxLength": 4096},
            "minItems": 1,
            "maxItems": 256,
        }
    },
    "required": ["args"],
    "additionalProperties": False,
}


def make(environment: ToolEnvironment) -> Tool:
    async def run(arguments: Arguments) -> Outcome:
        cwd = environment.settings.tools_git_cwd
        if cwd is None:
            raise ToolFailed("not_configured", "There is no repository to look at: set TOOLS_GIT_CWD.")
        return await _git(environment, environment.settings, cwd).run(arguments["args"])

    return Tool(
        name="git",
        version="1",
        description="Look at the repository: status, diff, log, show, rev-parse, ls-files.",
        parameters=_PARAMETERS,
        side_effects=False,
        run=run,
    )


def _git(environment: ToolEnvironment, settings: Settings, cwd: Path) -> Git:
    return Git(
        program="git",
        cwd=cwd,
        timeout_s=settings.tools_git_timeout_sec,
        stdout_max_chars=settings.tools_subprocess_stdout_max_chars,
        stderr_max_chars=settings.tools_subprocess_stderr_max_chars,
        limits=limits_of(settings),
        files=environment.files,
    )
