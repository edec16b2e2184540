"""Spool: uploads on the disk while they come in, without a name, so that nothing of them outlives its request."""

import hashlib
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from io import FileIO
from pathlib import Path
from typing import TypeVar

import trio

from appliance.protocol.errors import StorageFull
from appliance.storage.atomic import UnsafePath, ensure_private_dir

T = TypeVar("T")

_FLUSH_BYTES = 262_144  # one hop to a thread for each


class SpooledFile:
    """One upload: written piece by piece, then read. `Spool.open` closes it."""

    def __init__(self, spool: "Spool", stream: FileIO) -> None:
        self.size = 0
        self._spool = spool
        self._stream = stream
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._hash = hashlib.sha256()

    @property
    def sha256(self) -> str:
        """Of all that was flushed: of the whole, after `flush`."""
        return self._hash.hexdigest()

    async def write(self, data: bytes) -> None:
        """Append. Raises StorageFull."""
        self._spool.reserve(self, len(data))
        self._pending.append(data)
        self._pending_bytes += len(data)
        if self._pending_bytes >= _FLUSH_BYTES:
            await self.flush()

    async def flush(self) -> None:
        """Write what is still in memory. Raises StorageFull."""
        piece = b"".join(self._pending)
        self._pending.clear()
        self._pending_bytes = 0
        await self._spool.run(self._append, piece)

    async def read(self, max_bytes: int = -1) -> bytes:
        """The content from its beginning, `max_bytes` of it at most. Raises StorageFull if the disk fails."""
        return await self._spool.run(self._read_start, max_bytes)

    def _append(self, piece: bytes) -> None:
        view = memoryview(piece)
        while view:
            view = view[self._stream.write(view) :]
        self._hash.update(piece)

    def _read_start(self, max_bytes: int) -> bytes:
        self._stream.seek(0)
        return self._stream.read(max_bytes)


class Spool:
    """The directory of all uploads, and a cap on what they take together."""

    def __init__(self, directory: Path, *, max_total_bytes: int, limiter: trio.CapacityLimiter) -> None:
        self._directory = directory
        self._max_total_bytes = max_total_bytes
        self._limiter = limiter
        self._total_bytes = 0

    def __repr__(self) -> str:
        return f"<Spool {self._total_bytes} of {self._max_total_bytes} bytes>"

    @property
    def total_bytes(self) -> int:
        return self._total_bytes

    @asynccontextmanager
    async def open(self) -> AsyncIterator[SpooledFile]:
        """Make a file; when the block ends it is gone, and its bytes are free. Raises StorageFull."""
        stream = await self.run(self._create)
        file = SpooledFile(self, stream)
        try:
            yield file
        finally:
            stream.close()
            self._total_bytes -= file.size

    async def run(self, job: Callable[..., T], *args: object) -> T:
        """Do something with the disk in a thread. Raises StorageFull for whatever the disk has against it."""
        try:
            return await trio.to_thread.run_sync(job, *args, limiter=self._limiter)
        except (OSError, UnsafePath) as error:
            raise StorageFull("The upload") from error

    def reserve(self, file: SpooledFile, size: int) -> None:
        """Count bytes that are about to be written. Raises StorageFull over the cap."""
        if self._total_bytes + size > self._max_total_bytes:
            raise StorageFull("The upload", remedy="too many are coming in at once, try again in a moment")
        self._total_bytes += size
        file.size += size

    def _create(self) -> FileIO:
        ensure_private_dir(self._directory)
        return tempfile.TemporaryFile(buffering=0, dir=self._directory)
