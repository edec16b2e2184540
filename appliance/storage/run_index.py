"""Run index: which runs there are, whose, and how they ended. A cache in SQLite: what it says can be read off the files.

Blocking, and not for two threads at once: the store gives it one thread.
"""

import contextlib
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

FILE = "runs.sqlite"

_COLUMNS = (
    "run_id",
    "started",
    "owner",
    "agent",
    "backend",
    "upstream_model",
    "ok",
    "error",
    "ended",
    "steps",
    "bytes",
)
_CREATE = """
create table if not exists runs (
    run_id text primary key, started real not null, owner text not null, agent text not null, backend text not null,
    upstream_model text not null, ok integer, error text, ended real, steps integer not null, bytes integer not null
) without rowid
"""
_ORDER = "create index if not exists newest on runs (owner, started desc, run_id desc)"
_PUT = f"insert or replace into runs ({','.join(_COLUMNS)}) values ({','.join('?' * len(_COLUMNS))})"  # noqa: S608 -- constants


@dataclass(frozen=True, slots=True)
class RunRow:
    """One run. `started`, `ended`: Unix seconds. `ok` None: it has no end yet."""

    run_id: str
    started: float
    owner: str
    agent: str
    backend: str
    upstream_model: str
    ok: bool | None = None
    error: str | None = None
    ended: float | None = None
    steps: int = 0
    bytes: int = 0


class RunIndex:
    """Rows by run id, listed newest first."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / FILE
        self._connection: sqlite3.Connection | None = None

    def open(self) -> None:
        """Open it, anew where it is no index of ours. Raises OSError."""
        try:
            self._connection = self._connect()
        except sqlite3.DatabaseError:
            self._path.unlink(missing_ok=True)
            self._connection = self._connect()

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def put(self, rows: Iterable[RunRow]) -> None:
        with self._open:
            self._open.executemany(_PUT, [astuple(row) for row in rows])

    def remove(self, run_ids: Iterable[str]) -> None:
        with self._open:
            self._open.executemany("delete from runs where run_id = ?", [(run_id,) for run_id in run_ids])

    def run_ids(self) -> frozenset[str]:
        """Every run that has ended."""
        return frozenset(run_id for (run_id,) in self._open.execute("select run_id from runs where ok is not null"))

    def owner_of(self, run_id: str) -> str | None:
        found = self._open.execute("select owner from runs where run_id = ?", (run_id,)).fetchone()
        return None if found is None else str(found[0])

    def total_bytes(self) -> int:
        (total,) = self._open.execute("select coalesce(sum(bytes), 0) from runs").fetchone()
        return int(total)

    def oldest_ended(self, limit: int) -> list[tuple[str, int]]:
        """Ids and sizes of the runs that may go first."""
        query = "select run_id, bytes from runs where ok is not null order by started, run_id limit ?"
        return list(self._open.execute(query, (limit,)))

    def newest(
        self,
        *,
        limit: int,
        owner: str | None,
        agent: str | None,
        ok: bool | None,
        before: tuple[float, str] | None,
    ) -> list[RunRow]:
        """At most `limit` rows, newest first. `owner` None: everybody's. `before`: the last row of the page before."""
        conditions: list[tuple[str, Sequence[object]]] = [
            ("owner = ?", [owner] if owner is not None else []),
            ("agent = ?", [agent] if agent is not None else []),
            ("ok = ?", [int(ok)] if ok is not None else []),
            ("(started, run_id) < (?, ?)", before or []),
        ]
        used = [(text, values) for text, values in conditions if values]
        where = f" where {' and '.join(text for text, _ in used)}" if used else ""
        query = f"select {','.join(_COLUMNS)} from runs{where} order by started desc, run_id desc limit ?"  # noqa: S608 -- constants
        values = [value for _, some in used for value in some]
        return [_row(found) for found in self._open.execute(query, (*values, limit))]

    @property
    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            raise RuntimeError("the index is not open")
        return self._connection

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, check_same_thread=False)
        try:
            self._path.chmod(0o600)
            connection.execute("pragma journal_mode = wal")
            connection.execute("pragma synchronous = off")  # a cache: after a power cut it is made again
            connection.execute(_CREATE)
            connection.execute(_ORDER)
            connection.execute(f"select {','.join(_COLUMNS)} from runs limit 0")  # noqa: S608 -- constants
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                connection.close()
            raise
        return connection


def _row(found: Sequence[object]) -> RunRow:
    values = dict(zip(_COLUMNS, found, strict=True))
    ok = values.pop("ok")
    return RunRow(ok=None if ok is None else bool(ok), **values)  # type: ignore[arg-type]  # the columns' own types
