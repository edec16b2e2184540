"""models_refresh: asks every backend for its models anew."""

import trio

from appliance.toolbus.base import Arguments, Outcome, Tool, ToolEnvironment, ToolFailed

_GRACE_S = 1.0  # every class has its own deadline, and all are asked at once: this is for what comes on top


def make(environment: ToolEnvironment) -> Tool:
    limit_s = environment.settings.models_probe_timeout_sec + _GRACE_S

    async def run(_arguments: Arguments) -> Outcome:
        with trio.move_on_after(limit_s):
            return Outcome({"upstreams": dict(await environment.refresh_models())})
        raise ToolFailed("timeout", f"The backends did not list their models within {limit_s:g} s: try again later.")

    return Tool(
        name="models_refresh",
        version="1",
        description="Ask every model backend which models it has now. Answers their names, or what went wrong, by backend.",
        parameters={"type": "object", "properties": {}, "additionalProperties": False},
        side_effects=False,
        run=run,
    )
