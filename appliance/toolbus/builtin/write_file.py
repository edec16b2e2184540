"""write_file: puts a text under a path below the operator's roots, whole or not at all."""

import os
from functools import partial

from appliance.storage.atomic import Write
from appliance.toolbus.base import Arguments, Outcome, Tool, ToolEnvironment, ToolFailed
from appliance.toolbus.files import Turn, replace_file, run_file_work
from appliance.toolbus.paths import MAX_PATH_BYTES, parse_place


def make(environment: ToolEnvironment, *, write: Write = os.write) -> Tool:
    settings = environment.settings

    async def run(arguments: Arguments) -> Outcome:
        place = parse_place(arguments["path"], settings.tools_fs_roots)
        data = _bytes(arguments["content"], settings.tools_fs_max_bytes)
        turn = Turn()
        try:
            replaced = await run_file_work(partial(replace_file, place, data, turn, write), environment.files)
        finally:
            given_up = turn.take()  # cancelled or late: what does not show yet never will
        if replaced is None:
            what = "nothing was written" if given_up else "the file may have been written"
            raise ToolFailed("timeout", f"The disk does not answer, {what}: try again later.")
        return Outcome({"path": place.shown, "bytes_written": len(data), "replaced": replaced}, io_bytes=len(data))

    return Tool(
        name="write_file",
        version="1",
        description=(
            "Write a text file (UTF-8), in place of the one that has that path, if any. Its directory must exist. "
            f"Content of at most {settings.tools_fs_max_bytes} bytes. The file is replaced whole, or left as it was."
        ),
        parameters={
            "type": "object",
            "properties": {
                "path": {
                    "type": "string",
                    "minLength": 1,
                    "maxLength": MAX_PATH_BYTES,
                    "description": "path relative to the directory for files, such as notes/today.txt",
                },
                "content": {"type": "string", "description": "the whole new content"},
            },
            "required": ["path", "content"],
            "additionalProperties": False,
        },
        side_effects=True,
        run=run,
    )


def _bytes(content: str, max_bytes: int) -> bytes:
    try:
        data = content.encode()
    except UnicodeEncodeError:
        raise ToolFailed("not_text", "The content holds half of a surrogate pair: write valid Unicode.") from None
    if len(data) > max_bytes:
        raise ToolFailed("too_large", f"The content has more than {max_bytes} bytes: write less.")
    return data
