"""Images: pictures kept by the hash of their content, for a while after their last use, within a cap."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

import trio

from appliance.protocol.canonical import sha256_hex
from appliance.protocol.errors import StorageFull
from appliance.protocol.images import Image
from appliance.protocol.magic import EXTENSION
from appliance.storage import imagefiles
from appliance.storage.imagefiles import WriteFile
from appliance.storage.imageindex import MAX_ITEMS, ImageIndex, StoreStatistics


@dataclass(frozen=True, slots=True)
class StoredImage:
    """A picture that is on the disk: 64 lowercase hex digits, the extension of its file, bytes."""

    sha256: str
    extension: str
    size: int

    @property
    def name(self) -> str:
        return f"{self.sha256}.{self.extension}"


class ImageReader:
    """A picture being read: `size` bytes, whole even when it is evicted meanwhile. `ImageStore.open` closes it."""

    def __init__(self, stream: FileIO, size: int, limiter: trio.CapacityLimiter) -> None:
        self.size = size
        self._stream = stream
        self._limiter = limiter

    async def read(self, max_bytes: int = -1) -> bytes:
        """The next bytes, `max_bytes` at most, empty at the end; or everything that is left."""
        return await trio.to_thread.run_sync(self._stream.read, max_bytes, limiter=self._limiter)


class ImageStore:
    """Content-addressed pictures in one directory; `load_image_store` makes it.

    The index changes in plain functions, and only to what the disk already holds: a task that is cancelled at any
    await leaves the two agreeing. One task at a time writes or removes; any number read.
    """

    def __init__(
        self,
        directory: Path,
        *,
        ttl_s: float,
        max_item_bytes: int,
        max_total_bytes: int,
        limiter: trio.CapacityLimiter,
        now: Callable[[], float] = time.time,
        max_items: int = MAX_ITEMS,
        write_file: WriteFile = imagefiles.write_file,
    ) -> None:
        self._directory = directory
        self._max_size_bytes = min(max_item_bytes, max_total_bytes)
        self._limiter = limiter
        self._now = now
        self._write_file = write_file
        self._writing = trio.Lock()
        self._index = ImageIndex(ttl_s=ttl_s, max_total_bytes=max_total_bytes, max_items=max_items)

    def __repr__(self) -> str:
        return f"<ImageStore {self._index!r}>"

    def statistics(self) -> StoreStatistics:
        return self._index.statistics

    async def save(self, image: Image) -> StoredImage:
        """Keep a picture; the same content is kept once, and its time starts again.

        Raises StorageFull when it is over the limits or cannot be written: nothing of it is kept or counted then.
        """
        size = len(image.data)
        if size > self._max_size_bytes:
            self._index.count(failures=1)
            raise StorageFull(
                f"A picture of {size} bytes",
                remedy=f"at most {self._max_size_bytes} are kept, ask for a smaller one or raise UI_IMAGE_MAX_BYTES",
            )
        sha256 = await trio.to_thread.run_sync(sha256_hex, image.data, limiter=self._limiter)
        stored = StoredImage(sha256, EXTENSION[image.type], size)
        async with self._writing:
            if not await self._is_kept(stored):
                await self._write(stored, image.data)
        return stored

    async def load(self, sha256: str, extension: str) -> bytes | None:
        """The whole content of a picture; as `open`."""
        async with self.open(sha256, extension) as reader:
            return await reader.read() if reader is not None else None

    @asynccontextmanager
    async def open(self, sha256: str, extension: str) -> AsyncIterator[ImageReader | None]:
        """Read a picture, which is a use of it; None when it is unknown, expired, unreadable or damaged.

        Its content is held against its hash first. Only names that `save` gave out reach the disk.
        """
        name = f"{sha256}.{extension}"
        stream = await self._open_sound(name)
        if stream is None:
            yield None
            return
        with stream:
            yield ImageReader(stream, imagefiles.size_of(stream), self._limiter)

    async def sweep(self) -> None:
        """Remove what expired, what is over the cap, and what a crash left unfinished."""
        async with self._writing:
            now = self._now()
            victims = self._index.choose_victims(now)
            try:
                removed = await trio.to_thread.run_sync(
                    imagefiles.sweep_files, self._directory, victims.names, now, limiter=self._limiter
                )
            except OSError:
                self._index.count(failures=1)  # the next sweep tries again; what expired is not served meanwhile
                return
            self._index.forget(victims, removed)

    async def scan(self) -> None:
        """Index what is in the directory, once, at the start. Raises OSError, UnsafePath."""
        now = self._now()
        found = await trio.to_thread.run_sync(imagefiles.scan_files, self._directory, now, limiter=self._limiter)
        for file in found:
            self._index.add(file.name, file.size, file.used_at)

    async def _open_sound(self, name: str) -> FileIO | None:
        now = self._now()
        if not self._index.has_fresh(name, now):
            return None
        touch = self._index.wants_touch(name, now)
        path = self._directory / name
        try:
            opened = await trio.to_thread.run_sync(
                imagefiles.open_file, path, now if touch else None, limiter=self._limiter
            )
        except OSError:
            self._index.count(failures=1)
            return None
        if not isinstance(opened, str):
            self._index.use(name, now, touched=touch)
            return opened
        await self._drop_unsound(name)
        return None

    async def _is_kept(self, stored: StoredImage) -> bool:
        now = self._now()
        if not self._index.has_fresh(stored.name, now):
            return False
        path = self._directory / stored.name
        kept = await trio.to_thread.run_sync(imagefiles.touch_file, path, stored.size, now, limiter=self._limiter)
        if kept:
            self._index.use(stored.name, now, touched=True)
        return kept

    async def _write(self, stored: StoredImage, data: bytes) -> None:
        now = self._now()
        victims = self._index.choose_victims(now, stored.name, stored.size)
        outcome = await trio.to_thread.run_sync(
            self._write_file, self._directory, stored.name, data, now, victims.names, limiter=self._limiter
        )
        self._index.forget(victims, outcome.removed)
        self._index.note_write(failed=outcome.error is not None)
        if outcome.error is not None:
            raise StorageFull("The picture") from outcome.error
        self._index.add(stored.name, stored.size, now)

    async def _drop_unsound(self, name: str) -> None:
        async with self._writing:  # or else it could be the file that another task has just written anew
            path = self._directory / name
            try:
                condition = await trio.to_thread.run_sync(imagefiles.drop_unsound_file, path, limiter=self._limiter)
            except OSError:
                self._index.count(failures=1)
                return
            if condition != "sound" and self._index.remove(name):
                self._index.count(corrupt=int(condition == "damaged"))


async def load_image_store(
    directory: Path,
    *,
    ttl_s: float,
    max_item_bytes: int,
    max_total_bytes: int,
    limiter: trio.CapacityLimiter,
    now: Callable[[], float] = time.time,
) -> ImageStore:
    """Make the directory and take over what an earlier process left there. Raises OSError, UnsafePath."""
    store = ImageStore(
        directory,
        ttl_s=ttl_s,
        max_item_bytes=max_item_bytes,
        max_total_bytes=max_total_bytes,
        limiter=limiter,
        now=now,
    )
    await store.scan()
    return store


async def run_sweeper(
    store: ImageStore, interval_s: float, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Sweep the store now and every `interval_s` seconds, for ever."""
    task_status.started()
    while True:
        await store.sweep()
        await trio.sleep(interval_s)
