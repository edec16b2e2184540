"""read_file: the text of a file below the operator's roots."""

import codecs
from functools import partial

from appliance.toolbus.base import Arguments, Outcome, Tool, ToolEnvironment, ToolFailed
from appliance.toolbus.files import read_start, run_file_work
from appliance.toolbus.paths import MAX_PATH_BYTES, parse_place


def make(environment: ToolEnvironment) -> Tool:
    settings = environment.settings

    async def run(arguments: Arguments) -> Outcome:
        place = parse_place(arguments["path"], settings.tools_fs_roots)
        work = partial(read_start, place, settings.tools_fs_max_bytes)
        found = await run_file_work(work, environment.files)
        if found is None:
            raise ToolFailed("timeout", "The disk does not answer: try again later.")
        data, truncated = found
        fields = {"path": place.shown, "truncated": truncated, "content": _text(data, truncated=truncated)}
        return Outcome(fields, io_bytes=len(data))

    return Tool(
        name="read_file",
        version="1",
        description=(
            "Read a text file (UTF-8). Answers its path, its content, and whether the content was cut because the file "
            f"is longer than {settings.tools_fs_max_bytes} bytes. Symbolic links are not followed."
        ),
        parameters={
            "type": "object",
            "properties": {
                "path": {
                    "type": "string",
                    "minLength": 1,
                    "maxLength": MAX_PATH_BYTES,
                    "description": "path relative to the directory for files, such as notes/today.txt",
                }
            },
            "required": ["path"],
            "additionalProperties": False,
        },
        side_effects=False,
        run=run,
    )


def _text(data: bytes, *, truncated: bool) -> str:
    """What was cut in the middle of a character ends before it. Raises ToolFailed for what is no text."""
    try:
        return codecs.getincrementaldecoder("utf-8")("strict").decode(data, final=not truncated)
    except UnicodeDecodeError:
        raise ToolFailed("not_text", "The file is not text in UTF-8: this tool reads no other.") from None
