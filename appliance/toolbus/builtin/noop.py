"""noop: does nothing, and says so. What shows that the bus, its records and its replays work."""

from appliance.toolbus.base import Arguments, Outcome, Tool, ToolEnvironment


def make(_environment: ToolEnvironment) -> Tool:
    return Tool(
        name="noop",
        version="1",
        description="Do nothing. Answers the text that it was given, if any.",
        parameters={
            "type": "object",
            "properties": {"text": {"type": "string"}},
            "additionalProperties": False,
        },
        side_effects=False,
        run=_run,
    )


async def _run(arguments: Arguments) -> Outcome:
    return Outcome({"text": arguments["text"]} if "text" in arguments else {})
