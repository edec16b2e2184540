"""system_info: which machine and which Python this is, and what is switched on. No names, no environment, no secrets."""

import os
import platform

from appliance.config.settings import Settings
from appliance.toolbus.base import Arguments, Outcome, Tool, ToolEnvironment


def make(environment: ToolEnvironment) -> Tool:
    features = switched_on(environment.settings)

    async def run(_arguments: Arguments) -> Outcome:
        system = os.uname()
        return Outcome(
            {
                "python": platform.python_version(),
                "platform": f"{system.sysname} {system.release} {system.machine}",
                "pid": os.getpid(),
                "cwd": _working_directory(),
                "features": features,
            }
        )

    return Tool(
        name="system_info",
        version="1",
        description=(
            "Describe where this gateway runs: Python version, operating system, process id, working directory, and the "
            "names of the settings that are switched on."
        ),
        parameters={"type": "object", "properties": {}, "additionalProperties": False},
        side_effects=False,
        run=run,
    )


def switched_on(settings: Settings) -> list[str]:
    """The names of the settings that are yes or no, and yes."""
    return sorted(name for name in Settings.model_fields if getattr(settings, name) is True)


def _working_directory() -> str | None:
    try:
        return os.getcwd()
    except OSError:  # it was removed
        return None
