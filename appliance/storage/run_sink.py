"""Run sink: one run's file while the run goes on. Events go in, in order, each chained to the one before."""

import json
import os
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from appliance.storage.chain import GENESIS, make_draft, seal
from appliance.storage.run_files import Found, RunFiles
from appliance.storage.run_index import RunRow
from appliance.storage.run_payloads import move_out, payloads_in

Event = Mapping[str, Any]

ENDS = frozenset({"run_completed", "run_failed"})


@dataclass(frozen=True, slots=True)
class Put:
    """One line on its way into a run's file, and what was too long for it. `durable`: whatever the store's rule."""

    line: bytes
    payloads: Mapping[str, bytes]
    durable: bool


Write = Callable[["RunSink", Put], Awaitable[None]]
"""Puts a line into a sink's file; all of it or nothing. Raises StorageFull."""
Note = Callable[["RunSink", RunRow], Awaitable[None]]
"""Takes notice of a run that begins, or has ended. Raises nothing: its events are kept by then."""


class RunSink:
    """Closed by leaving it as a context. `lines`: what was stored, the stored bytes; `size`: of the file.

    `file` is opened by the first event; a run without one leaves no file. `leave` is told of a run that is left without
    its end, because that could not be kept.
    """

    def __init__(self, run_id: str, files: RunFiles, write: Write, note: Note, leave: Callable[[str], None]) -> None:
        self.run_id = run_id
        self.file: int | None = None
        self.lines: list[bytes] = []
        self.size = 0
        self.row: RunRow | None = None
        self._files = files
        self._write = write
        self._note = note
        self._leave = leave
        self._is_over = False
        self._link = GENESIS
        self._payload_bytes = 0

    def go_on(self, file: int, found: Found) -> None:
        """What comes now follows what was found in a file that is open. Raises LookupError: it is no run's."""
        self.file, self.size, self._link = file, found.size, found.link
        self.lines = list(found.lines)
        self._payload_bytes = self._files.payloads_size(self.run_id, payloads_in(found.lines))
        self.row = first_row(json.loads(self.lines[0]))

    def __enter__(self) -> "RunSink":
        return self

    def __exit__(self, *_: object) -> None:
        if self.file is None:
            return
        with suppress(OSError):  # what was acknowledged was written, and the last event synced
            os.close(self.file)
            if not self.lines:
                self._files.remove(self.run_id)
        if self.lines and not self._is_over:
            self._leave(self.run_id)

    async def append(self, fields: Event) -> None:
        """Keep one event. It survives a kill -9 when this returns; a durable store's, a power cut. Raises StorageFull."""
        kept, payloads = move_out(fields)
        sealed = seal(make_draft(kept), self._link)
        last = fields["type"] in ENDS
        await self._write(self, Put(sealed.line, payloads, durable=last))
        self._link = sealed.link
        self.size += len(sealed.line) + 1
        self.lines.append(sealed.line)
        self._is_over = last
        self._payload_bytes += sum(map(len, payloads.values()))
        if self.row is None:
            self.row = first_row(fields)
            await self._note(self, self.row)
        elif last:
            self.row = replace(ended_row(self.row, fields), bytes=self.size + self._payload_bytes)
            await self._note(self, self.row)


def first_row(started: Event) -> RunRow:
    """Raises KeyError for what is no first event."""
    names = ("run_id", "owner", "agent", "backend", "upstream_model")
    return RunRow(started=started["ts"], **{name: started[name] for name in names})


def ended_row(row: RunRow, ended: Event) -> RunRow:
    return replace(row, ok=ended["ok"], error=ended.get("error"), ended=ended["ts"], steps=ended["steps"])
