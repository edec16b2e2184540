"""git: looks at one repository, with the subcommands and options that only look on."""

from appliance.toolbus.base import Arguments, Outcome, Schema, Tool, ToolEnvironment, ToolFailed
from appliance.toolbus.git_program import Git

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
        settings = environment.settings
        if settings.tools_git_cwd is None:
            raise ToolFailed("not_configured", "There is no repository to look at: set TOOLS_GIT_CWD.")
        git = Git("git", settings.tools_git_cwd, settings.tools_git_timeout_sec, settings, environment.files)
        return await git.run(arguments["args"])

    return Tool(
        name="git",
        version="1",
        description="Look at the repository: status, diff, log, show, rev-parse, ls-files.",
        parameters=_PARAMETERS,
        side_effects=False,
        run=run,
    )
