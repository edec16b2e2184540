"""Calls: image calls as dispatch would make them, with what a test wants changed."""

from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import trio

from appliance.backends.base import ImageBackend, ImageCall, ImageEdit, ImageResult, OnPreview
from appliance.config.classes import BackendClass, HealthPaths, Login, PayloadPolicy
from appliance.config.comfyui_workflow import Workflows
from appliance.protocol.ids import new_id
from appliance.protocol.images import ImageOptions
from appliance.upstream.client import UpstreamClient

CLEANUP_S = 1000.0


def backend_class(
    base_url: str = "http://127.0.0.1:1", *, images_max_bytes: int = 50_000_000, login: Login | None = None
) -> BackendClass:
    return BackendClass(
        name="gpu_heavy",
        base_url=base_url,
        provider="openai_images",
        capabilities=frozenset({"images"}),
        limits={"images": 2},
        health=HealthPaths("/healthz", "/readyz", exact=True),
        payload_policy=PayloadPolicy(images_max_bytes=images_max_bytes),
        login=login,
    )


def image_call(
    base_url: str = "http://127.0.0.1:1",
    *,
    prompt: str = "a red lighthouse",
    n: int = 1,
    size: tuple[int, int] = (64, 48),
    options: Mapping[str, Any] | None = None,
    extra: Mapping[str, Any] | None = None,
    model: str | None = None,
    images_max_bytes: int = 50_000_000,
    timeout_s: float = 120,
    idle_timeout_s: float = 30,
    cancel_timeout_s: float = 60,
    unstoppable: bool = False,
    login: Login | None = None,
    workflows: Workflows | None = None,
    edit: ImageEdit | None = None,
    on_preview: OnPreview | None = None,
    previews: int = 3,
) -> ImageCall:
    return ImageCall(
        request_id=new_id("req"),
        backend_class=replace(
            backend_class(base_url, images_max_bytes=images_max_bytes, login=login),
            workflows=workflows or Workflows(),
        ),
        prompt=prompt,
        n=n,
        width=size[0],
        height=size[1],
        options=ImageOptions(**(options or {})),
        extra=extra or {},
        model=model,
        default_steps=20,
        timeout_s=timeout_s,
        idle_timeout_s=idle_timeout_s,
        cancel_timeout_s=cancel_timeout_s,
        unstoppable=unstoppable,
        edit=edit,
        on_preview=on_preview,
        previews=previews if on_preview is not None else 0,
    )


@dataclass
class Drawing:
    """A call in the hands of dispatch: cut it off with `scope`, the slot comes back with `slot_back`."""

    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    slot_back: trio.Event = field(default_factory=trio.Event)
    result: ImageResult | None = None
    error: Exception | None = None

    async def run(self, backend: ImageBackend, call: ImageCall, upstream: UpstreamClient) -> None:
        """Draw as dispatch does: the stack closes shielded, and the slot is given back after it."""
        stack = AsyncExitStack()
        try:
            with self.scope:
                self.result = await backend.draw(call, upstream, stack)
        except Exception as error:  # the test looks at it
            self.error = error
        finally:
            with trio.move_on_after(CLEANUP_S, shield=True):
                await stack.aclose()
            self.slot_back.set()


async def draw(backend: ImageBackend, call: ImageCall, upstream: UpstreamClient) -> ImageResult:
    """Draw to the end. Raises what the backend raises."""
    drawing = Drawing()
    await drawing.run(backend, call, upstream)
    if drawing.error is not None:
        raise drawing.error
    assert drawing.result is not None
    return drawing.result
