"""Previews: the slot between a backend that draws and a client that watches. Only the latest is kept in it."""

import trio

from appliance.protocol.images import Image

_ROUNDING = 1e-6  # a third of the steps may come as 0.333333


class Previews:
    """At most `wanted` previews, spread over the drawing. Writing never waits: a slow client sees fewer, later ones.

    A preview that the client has not taken is replaced by a newer one.
    """

    def __init__(self, wanted: int) -> None:
        self._wanted = wanted
        self._taken = 0
        self._latest: Image | None = None
        self._arrived = trio.Event()
        self._closed = False
        self._started_at = trio.current_time()
        self._last_s = 0.0

    def __repr__(self) -> str:
        return f"<Previews {self._taken}/{self._wanted}{' waiting' if self._latest else ''}>"

    def offer(self, image: Image, progress: float | None = None) -> None:
        """What a backend calls (`OnPreview`)."""
        if self._closed or (self._latest is None and not self._is_due(progress)):
            return
        self._latest = image
        self._last_s = trio.current_time() - self._started_at
        self._arrived.set()

    def close(self) -> None:
        """The drawing has ended: what was not taken is no longer of interest."""
        self._closed = True
        self._latest = None
        self._arrived.set()

    async def take(self) -> tuple[int, Image] | None:
        """Wait for a preview, and give it with its index; None once closed. A wait that is cancelled loses nothing."""
        await self._arrived.wait()
        if self._latest is None:
            return None
        image, self._latest = self._latest, None
        self._arrived = trio.Event()
        self._taken += 1
        return self._taken - 1, image

    def _is_due(self, progress: float | None) -> bool:
        return self._taken < self._wanted and is_due(
            progress, self._taken, self._wanted, trio.current_time() - self._started_at, self._last_s
        )


def is_due(progress: float | None, taken: int, wanted: int, elapsed_s: float, last_s: float) -> bool:
    """Say whether it is time for the next preview.

    The parts of the drawing between previews are of one size. A backend that does not say how far it is has its first
    one shown, and each further one when it has drawn for twice as long.
    """
    if progress is not None:
        return progress + _ROUNDING >= (taken + 1) / (wanted + 1)
    return elapsed_s >= 2 * last_s
