"""Fakes for tests inside the process: an image backend whose every moment a test can hold."""

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import trio

from appliance.backends.base import ImageCall, ImageResult
from appliance.protocol.images import Image
from appliance.upstream.client import UpstreamClient

PNG = b"\x89PNG\r\n\x1a\n a picture"


@dataclass
class GatedBackend:
    """Draws when its gate is open; a call that is cut off is `cancelled`, and settles for `settle_s` seconds."""

    gate: trio.Event = field(default_factory=trio.Event)
    settle_s: float = 0.0
    fail: Exception | None = None
    after_draw: Callable[[], Awaitable[None]] | None = None
    calls: list[ImageCall] = field(default_factory=list)
    finished: int = 0
    settled: int = 0

    def show(self, data: bytes, progress: float | None = None, *, job: int = -1) -> None:
        """A preview of one of the jobs."""
        on_preview = self.calls[job].on_preview
        assert on_preview is not None, "nobody looks at previews"
        on_preview(Image(data, "jpeg"), progress)

    async def draw(self, call: ImageCall, upstream: UpstreamClient, cleanup: AsyncExitStack) -> ImageResult:
        self.calls.append(call)
        done = False

        async def settle() -> None:
            if not done:
                await trio.sleep(self.settle_s)
                self.settled += 1

        cleanup.push_async_callback(settle)
        await self.gate.wait()
        if self.fail is not None:
            raise self.fail
        done = True
        self.finished += 1
        return ImageResult(images=(Image(PNG, "png"),) * call.n, seed=7, request={"steps": call.default_steps})
