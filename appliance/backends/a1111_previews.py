"""A1111 previews: asked for while our own task is active, and shown as they are drawn.

A1111 renders a preview when somebody asks for one, if it has sampled far enough since the last: its own page asks twice
a second. `/sdapi/v1/progress` has one too, of whatever job runs just then: it is never asked for pictures.
"""

from contextlib import suppress

import trio

from appliance.backends.a1111_jobs import Job, Preview
from appliance.backends.base import ImageCall, OnPreview
from appliance.backends.decoding import decode_images
from appliance.protocol.errors import UpstreamFailed

ACTIVE_S = 0.04  # a preview is to be at the client 50 ms after it can be had
WAITING_S = 0.1  # while others' jobs run there is nothing to see

PARTS = 4  # previews at quarters of the drawing: OpenAI's clients ask for three at most


def steps_between(steps: int) -> int:
    """A1111's `show_progress_every_n_steps`, 10 if it is left alone: more than many a drawing has."""
    return max(1, steps // PARTS)


async def watch_previews(job: Job, call: ImageCall, on_preview: OnPreview) -> None:
    """Show every new preview until the job is over. Whatever goes wrong, the picture goes on."""
    shown = -1
    while not job.over:
        preview = await job.look_at_preview(shown)
        if preview is not None and preview.encoded is not None:
            shown = preview.id
            await _show(preview, call, on_preview)
        await trio.sleep(WAITING_S if preview is None else ACTIVE_S)


async def _show(preview: Preview, call: ImageCall, on_preview: OnPreview) -> None:
    """A data URL whose type is the server's setting; what it really is, its bytes say."""
    _, _, encoded = (preview.encoded or "").rpartition(",")
    with suppress(UpstreamFailed):  # a preview that cannot be read is not worth a picture
        (image,) = await decode_images([encoded], call)
        on_preview(image, preview.progress)
