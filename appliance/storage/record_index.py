"""Record index: where in a log each record lies. A cache: whatever is wrong with it, it is made anew. Blocking, one thread.

It follows the log: what it has read is marked, and a record behind the mark is in it or is no record of the log.
"""

import contextlib
import hashlib
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from appliance.storage.private import open_to_append
from appliance.storage.record_scan import IdReader, iterate_log
from appliance.storage.segments import NOWHERE, Position, open_segment
from appliance.storage.tail import read_line_before

_FORMAT = 0x61706C31  # "apl1"; a file of any other format is foreign
_SCHEMA = f"""
    CREATE TABLE records (
        id TEXT PRIMARY KEY, segment INTEGER NOT NULL, offset INTEGER NOT NULL, length INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE mark (
        segment INTEGER NOT NULL, offset INTEGER NOT NULL, digest TEXT NOT NULL,
        boot TEXT NOT NULL, oldest INTEGER NOT NULL
    );
    PRAGMA application_id = {_FORMAT}
"""
_STEP_BYTES = 8_388_608  # of log, read for one transaction at most
_FORGET_ROWS = 20_000


_DAMAGE = {
    sqlite3.SQLITE_ERROR,  # tables that are not there: somebody else's file
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_CONSTRAINT,
    sqlite3.SQLITE_MISMATCH,
    sqlite3.SQLITE_FORMAT,
}


class IndexDamaged(Exception):
    """The index cannot be used as it is: `discard` it."""


class Place(NamedTuple):
    """Where a line lies; `length` in bytes, newline included."""

    segment: int
    offset: int
    length: int


class RecordIndex:
    """`boot_id`: names this run of the machine. Nothing is synced until `close`, so that what an index held when the
    power was cut is not to be trusted: it is made anew then."""

    def __init__(self, path: Path, log_path: Path, ids: IdReader, boot_id: Callable[[], str]) -> None:
        self._path = path
        self._log_path = log_path
        self._ids = ids
        self._read_boot_id = boot_id
        self._boot_id = ""
        self._database: sqlite3.Connection | None = None
        self._mark = self._reached = NOWHERE
        self._forgotten = ""
        self.oldest_segment = 0
        self.builds = 0

    @property
    def reached(self) -> Position:
        """Up to here the log is in the index."""
        return self._reached

    def open(self) -> None:
        """Take over what an earlier process left, or begin anew. Raises OSError."""
        self.let_go()
        self._boot_id = self._read_boot_id()
        try:
            with _errors_told_apart():
                mark = self._open()
        except IndexDamaged:
            mark = None
        if mark is None:
            self.discard()
            self._create()
        else:
            self._mark = self._reached = mark

    def discard(self) -> None:
        """Throw everything away: `open` begins anew then. Raises OSError."""
        self.let_go()
        self._mark = self._reached = NOWHERE
        self._forgotten, self.oldest_segment = "", 0
        for suffix in ("", "-wal", "-shm", "-journal"):
            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)

    def follow(self, end: Position, limit: int) -> None:
        """Read on towards `end`, where a record ends: at most `limit` records, then `reached` says how far it is.

        Raises OSError, IndexDamaged.
        """
        rows: list[tuple[str, int, int, int]] = []
        mark, size, last, reached = self._mark, 0, b"", end
        for position, line in iterate_log(self._log_path, mark, end):
            record_id = self._ids.read_id(line)
            if record_id is not None:
                rows.append((record_id, *position, len(line)))
            mark, last = Position(position.segment, position.offset + len(line)), line
            size += len(line)
            if len(rows) >= limit or size >= _STEP_BYTES:
                reached = mark
                break
        if mark > self._mark:
            self._add(rows, mark, last)
        self._reached = reached

    def find(self, record_id: str) -> Place | None:
        """Where the record lies. None: no record behind the mark has this id. Raises OSError, IndexDamaged."""
        query = "SELECT segment, offset, length FROM records WHERE id = ?"
        with _errors_told_apart():
            row = self._connected().execute(query, (record_id,)).fetchone()
        return Place(*row) if row else None

    def forget_before(self, segment: int) -> None:
        """Drop some of what lies in older segments; that was all when `oldest_segment` says so.

        Raises OSError, IndexDamaged.
        """
        bound = "SELECT id FROM records WHERE id > ? ORDER BY id LIMIT 1 OFFSET ?"
        delete = "DELETE FROM records WHERE id > ? AND id <= ? AND segment < ?"
        with _errors_told_apart(), self._transaction(self._connected()) as database:
            row = database.execute(bound, (self._forgotten, _FORGET_ROWS)).fetchone()
            upto = row[0] if row else "\U0010ffff"
            database.execute(delete, (self._forgotten, upto, segment))
            if row is None:
                database.execute("UPDATE mark SET oldest = ?", (segment,))
        self._forgotten = upto if row else ""
        if row is None:
            self.oldest_segment = segment

    def close(self) -> None:
        """Make the index survive a power cut, and let go of it. Raises OSError, IndexDamaged."""
        if self._database is None:
            return
        try:
            with _errors_told_apart():
                self._note_boot("")
        finally:
            self.let_go()

    def _open(self) -> Position | None:
        """The mark, if this is an index of this log that can be trusted."""
        database = self._connect()
        if database.execute("PRAGMA application_id").fetchone() != (_FORMAT,):
            return None
        query = "SELECT segment, offset, digest, boot, oldest FROM mark"
        segment, offset, digest, boot, self.oldest_segment = database.execute(query).fetchone()
        mark = Position(segment, offset)
        if boot not in ("", self._boot_id) or not self._is_in_log(mark, digest):
            return None
        self._note_boot(self._boot_id)
        return mark

    def _create(self) -> None:
        self.builds += 1
        with _errors_told_apart(), self._transaction(self._connect()) as database:
            for statement in _SCHEMA.split(";"):
                database.execute(statement)
            database.execute("INSERT INTO mark VALUES (?, ?, '', ?, 0)", (*NOWHERE, self._boot_id))

    def _note_boot(self, boot_id: str) -> None:
        """Say on the disk itself which run of the machine writes from now on: what comes after is not synced."""
        database = self._connected()
        database.execute("PRAGMA synchronous = FULL")
        database.execute("UPDATE mark SET boot = ?", (boot_id,))
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        database.execute("PRAGMA synchronous = OFF")

    def _is_in_log(self, mark: Position, digest: str) -> bool:
        """Whether the log still has, before the mark, the line that was read last."""
        if mark == NOWHERE:
            return True
        try:
            file = open_segment(self._log_path, mark.segment)
        except FileNotFoundError:
            return False
        with open(file, "rb") as stream:
            return _digest(read_line_before(stream.fileno(), mark.offset)) == digest

    def _connect(self) -> sqlite3.Connection:
        with open(open_to_append(self._path), "rb"):  # made private, and no link followed: sqlite does neither
            pass
        # One thread at a time uses it, and not always the same one: a limiter of one sees to that.
        database = sqlite3.connect(self._path, timeout=0, isolation_level=None, check_same_thread=False)
        self._database = database
        database.execute("PRAGMA locking_mode = EXCLUSIVE")
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = OFF")
        return database

    def _connected(self) -> sqlite3.Connection:
        if self._database is None:
            raise OSError("the index is not open")
        return self._database

    def _add(self, rows: Sequence[tuple[str, int, int, int]], mark: Position, last: bytes) -> None:
        with _errors_told_apart(), self._transaction(self._connected()) as database:
            database.executemany("INSERT OR REPLACE INTO records VALUES (?, ?, ?, ?)", sorted(rows))
            database.execute("UPDATE mark SET segment = ?, offset = ?, digest = ?", (*mark, _digest(last)))
        self._mark = mark

    @contextlib.contextmanager
    def _transaction(self, database: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
        database.execute("BEGIN IMMEDIATE")
        try:
            yield database
        except BaseException:
            with contextlib.suppress(sqlite3.Error):  # it is rolled back already
                database.execute("ROLLBACK")
            raise
        database.execute("COMMIT")

    def let_go(self) -> None:
        """Close the file as it is: the next start trusts it only if the machine did not stop meanwhile."""
        if self._database is not None:
            self._database.close()
            self._database = None


@contextlib.contextmanager
def _errors_told_apart() -> Iterator[None]:
    """IndexDamaged for what a new index mends; OSError for the rest: a full disk, another process."""
    try:
        yield
    except sqlite3.Error as error:
        if error.sqlite_errorcode & 0xFF in _DAMAGE:
            raise IndexDamaged(str(error)) from error
        raise OSError(f"the index of the records: {error}") from error


def read_boot_id() -> str:
    """What names this run of the machine: Linux makes it anew at every start. Blocks. Raises OSError."""
    return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()  # random(4)


def _digest(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()
