"""Scratch: an empty directory for one run of a program, gone when the run is over."""

import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import trio

from appliance.toolbus.base import ToolFailed

PREFIX = "appliance-run-"
CLEANUP_S = 5.0


@asynccontextmanager
async def open_scratch() -> AsyncIterator[Path]:
    """A directory that this user alone may read, removed with all that is in it. Raises ToolFailed."""
    threads = trio.CapacityLimiter(1)  # neither waits for others' work
    try:
        directory = await trio.to_thread.run_sync(partial(tempfile.mkdtemp, prefix=PREFIX), limiter=threads)
    except OSError as error:
        reason = error.strerror or "no directory"
        raise ToolFailed("no_scratch", f"No temporary directory could be made ({reason}): see to its disk.") from None
    try:
        yield Path(directory)
    finally:
        with trio.move_on_after(CLEANUP_S, shield=True):
            remove = partial(shutil.rmtree, directory, ignore_errors=True)
            await trio.to_thread.run_sync(remove, limiter=threads, abandon_on_cancel=True)
