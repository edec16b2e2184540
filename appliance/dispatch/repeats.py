"""Repeats: a request that is sent again finds the job of the first time, still running or ended, and starts no other.

Only classes with `on_disconnect: finish` have such jobs. The request that started one owns it, shielded to its end even
when its client has left; those that come again wait for it, hold no slot, and leaving hurts nobody.
"""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace

import trio

from appliance.dispatch.images import Drawing, ImageJob
from appliance.protocol.errors import GatewayError, InternalError, ShuttingDown, StorageFull
from appliance.protocol.images import Image
from appliance.storage.images import ImageStore, StoredImage

MAX_KEPT = 1024  # ended jobs: some KiB each, the pictures themselves are on the disk


@dataclass(slots=True, eq=False)
class Running:
    """A job and, once `ended` is set, what became of it: `drawing` without its pictures, and where those are; or `error`."""

    job: ImageJob
    ended: trio.Event = field(default_factory=trio.Event)
    ended_at: float = 0.0
    drawing: Drawing | None = None
    pictures: tuple[StoredImage, ...] = ()
    error: GatewayError | None = None


class Repeats:
    """The jobs that a repeat may attach to, by the key of their request. Failed ones are forgotten at once."""

    def __init__(self, images: ImageStore, *, ttl_s: float, max_kept: int = MAX_KEPT) -> None:
        self._images = images
        self._ttl_s = ttl_s
        self._max_kept = max_kept
        self._jobs: dict[str, Running] = {}

    def __repr__(self) -> str:
        running = sum(not job.ended.is_set() for job in self._jobs.values())
        return f"<Repeats running={running} kept={len(self._jobs) - running}>"

    def find(self, key: str) -> Running | None:
        """The latest job of this request, None where there is none or its time has passed."""
        self._drop_old()
        return self._jobs.get(key)

    async def carry_out(
        self, key: str, job: ImageJob, draw: Callable[[], Awaitable[Drawing]], shield: AbstractContextManager[object]
    ) -> Drawing:
        """Draw and keep the pictures, whether or not the client still waits, as long as the shield holds.

        Raises what `draw` raises, and ShuttingDown where the shield was cut.
        """
        drawing: Drawing | None = None
        with self._registered(key, job) as running, shield:
            drawing = await draw()
            await self._keep(running, drawing)
        if drawing is None:
            raise ShuttingDown
        return drawing

    async def wait(self, running: Running) -> Drawing:
        """What becomes of a job. Raises its error; StorageFull where its pictures are gone already."""
        await running.ended.wait()
        if running.error is not None:
            raise running.error
        drawing = await self.load(running)
        if drawing is None:
            raise StorageFull("The picture", remedy="it was drawn and is gone already, draw it again")
        return drawing

    async def load(self, running: Running) -> Drawing | None:
        """The drawing of a job that has ended well, with its pictures; None where one is no longer there."""
        if running.drawing is None:
            return None
        found = []
        for stored, kind in zip(running.pictures, running.drawing.result.images, strict=True):
            data = await self._images.load(stored.sha256, stored.extension)
            if data is None:
                return None
            found.append(replace(kind, data=data))
        return replace(running.drawing, result=replace(running.drawing.result, images=tuple(found)))

    @contextmanager
    def _registered(self, key: str, job: ImageJob) -> Iterator[Running]:
        running = self._jobs[key] = Running(job)
        try:
            yield running
        except GatewayError as error:
            running.error = error
            raise
        except Exception:
            running.error = InternalError()
            raise
        finally:
            self._end(key, running)

    def _end(self, key: str, running: Running) -> None:
        """Cut off without a word: the process is going."""
        if running.drawing is None and running.error is None:
            running.error = ShuttingDown()
        if running.error is not None and self._jobs.get(key) is running:
            del self._jobs[key]
        running.ended_at = trio.current_time()
        running.ended.set()

    async def _keep(self, running: Running, drawing: Drawing) -> None:
        """A picture that cannot be kept is still its own client's; only those who come again have nothing to get."""
        try:
            pictures = [await self._images.save(image) for image in drawing.result.images]
        except StorageFull as error:
            running.error = error
            return
        running.pictures = tuple(pictures)
        emptied = tuple(Image(b"", image.type) for image in drawing.result.images)
        running.drawing = replace(drawing, result=replace(drawing.result, images=emptied))

    def _drop_old(self) -> None:
        now = trio.current_time()
        ended = [(key, job) for key, job in self._jobs.items() if job.ended.is_set()]
        surplus = len(ended) - self._max_kept
        for number, (key, job) in enumerate(sorted(ended, key=lambda item: item[1].ended_at)):
            if number < surplus or now - job.ended_at >= self._ttl_s:
                del self._jobs[key]
