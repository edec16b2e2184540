"""Run recovery: at the start, what has become of the runs that the index does not know to have ended. Blocking."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from appliance.storage.record_scan import iterate_log
from appliance.storage.run_files import RunFiles
from appliance.storage.run_index import RunRow
from appliance.storage.run_payloads import payloads_in
from appliance.storage.run_records import row_in, row_of
from appliance.storage.run_sink import ENDS
from appliance.storage.segments import NOWHERE, find_end


@dataclass(frozen=True, slots=True)
class Recovered:
    """`ended`: runs that had an end; `cut`: runs that want one; `unreadable`: files that are left as they are."""

    ended: tuple[RunRow, ...]
    cut: tuple[str, ...]
    unreadable: tuple[str, ...]


def look_at_runs(files: RunFiles, run_ids: list[str]) -> Recovered:
    """Tell runs that ended from runs that were cut off. Hashes are not looked at: who reads a run does that.

    A file without one whole line is removed: its run never was. Raises nothing for a file that cannot be read.
    """
    ended: list[RunRow] = []
    cut: list[str] = []
    unreadable: list[str] = []
    for run_id in run_ids:
        try:
            row = _look(files, run_id)
        except (OSError, LookupError, TypeError, ValueError):
            unreadable.append(run_id)
            continue
        if isinstance(row, RunRow):
            ended.append(row)
        elif row:
            cut.append(run_id)
    return Recovered(tuple(ended), tuple(cut), tuple(unreadable))


def rows_in_journal(path: Path) -> Iterator[RunRow]:
    """Every run that the journal at `path` has a record of, oldest first. Raises OSError."""
    for _, line in iterate_log(path, NOWHERE, find_end(path)):
        try:
            yield row_in(line)
        except (LookupError, TypeError, ValueError):
            continue


def _look(files: RunFiles, run_id: str) -> RunRow | bool:
    """Its row, or whether it wants an end."""
    found = files.read(run_id)
    if found is None:
        return False
    if not found.lines:
        files.remove(run_id)
        return False
    if not any(b'"type":"%b"' % kind.encode("ascii") in found.lines[-1] for kind in ENDS):
        return True
    last = json.loads(found.lines[-1])
    if last["type"] not in ENDS:
        return True
    size = found.size + files.payloads_size(run_id, payloads_in(found.lines))
    return row_of(json.loads(found.lines[0]), last, size)
