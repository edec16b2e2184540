"""Previews: how soon one that an image server shows is at a client that watches its stream.

ComfyUI, InvokeAI and OpenAI-style servers push theirs. An A1111 makes one when it is asked for it: from then on it counts here, and it is
asked every 40 ms.
"""

import json
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

import h11
import trio

from appliance.protocol.sse import SseReader
from tests.fakes import a1111, comfyui, invokeai
from tests.fakes.comfyui_routes import open_fake_comfyui
from tests.fakes.openai_images import FakeOpenAIImages, open_fake_openai_images
from tools.bench.clients import GENERATIONS
from tools.bench.common import Figure, at_most, exactly, parse_arguments, percentile, report, told
from tools.bench.gateway_process import GatewayProcess, open_gateway

STREAMS = 60
PREVIEWS = 3  # what a client may ask for
STEPS = PREVIEWS + 1  # the previews that are due are those of the first three
STEP_S = 0.11  # no multiple of a polling interval
SIDE = 512
PATIENCE_S = 20.0
MAX_EVENT_BYTES = 1 << 24
GOAL_MS = 50.0
TITLE = f"previews: {STREAMS} streams of {PREVIEWS} at each image server, shown to arrived"


class Fake(Protocol):
    """An image server that notes, on trio's clock, when it had a preview to show."""

    previewed_at: list[float]

    @property
    def base_url(self) -> str:
        """Where it listens."""
        ...


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of image server."""

    name: str
    backend: str
    fake: AbstractAsyncContextManager[Fake]


def _cases() -> Sequence[Case]:
    comfy = comfyui.Behaviour(step_s=STEP_S, preview_side=SIDE)
    return (
        Case("A1111", "http_a1111", a1111.open_fake_a1111(a1111.Behaviour(step_s=STEP_S))),
        Case("ComfyUI", "http_comfyui", open_fake_comfyui(comfy)),
        Case("OpenAI-style", "http_openai_images", _open_openai()),
        Case("InvokeAI", "http_invokeai", invokeai.open_fake_invokeai(invokeai.Behaviour(step_s=STEP_S))),
    )


@asynccontextmanager
async def _open_openai() -> AsyncIterator[FakeOpenAIImages]:
    async with open_fake_openai_images(drawing_s=STEPS * STEP_S) as fake:
        fake.streams, fake.preview_side = True, SIDE
        yield fake


def main(argv: Sequence[str]) -> int:
    """Measure and print. Exit 1 if a preview was missing."""
    arguments = parse_arguments(argv, TITLE)
    figures = [figure for case in _cases() for figure in trio.run(_measure, case)]
    return report(TITLE, figures, arguments.json)


async def _measure(case: Case) -> list[Figure]:
    delays_ms: list[float] = []
    async with case.fake as fake:
        environment: Mapping[str, str] = {"IMAGES_BACKEND": case.backend, "IMAGES_HTTP_BASE_URL": fake.base_url}
        async with open_gateway(environment) as gateway:
            await _watch(gateway, 0)  # warm-up
            for number in range(1, STREAMS + 1):
                fake.previewed_at.clear()
                arrived = await _watch(gateway, number)
                delays_ms += [(at - shown) * 1000 for at, shown in zip(arrived, fake.previewed_at, strict=False)]
    return [
        exactly(f"{case.name}: previews", len(delays_ms), "", STREAMS * PREVIEWS),
        told(f"{case.name}: p50", percentile(delays_ms, 50), "ms"),
        at_most(f"{case.name}: p99", percentile(delays_ms, 99), "ms", GOAL_MS),
        told(f"{case.name}: max", max(delays_ms, default=float("nan")), "ms"),
    ]


async def _watch(gateway: GatewayProcess, number: int) -> list[float]:
    """When the previews of one picture were here, whole. Raises trio.TooSlowError, OSError."""
    protocol, events = h11.Connection(h11.CLIENT), SseReader(MAX_EVENT_BYTES)
    arrived: list[float] = []
    with trio.fail_after(PATIENCE_S):
        async with await trio.open_tcp_stream("127.0.0.1", gateway.port) as stream:
            await stream.send_all(_request(protocol, gateway, number))
            while not isinstance(event := protocol.next_event(), h11.EndOfMessage):
                if event is h11.NEED_DATA:
                    protocol.receive_data(await stream.receive_some(65536))
                elif isinstance(event, h11.Data):
                    now = trio.current_time()
                    arrived += [now for one in events.feed(bytes(event.data)) if b".partial_image\n" in one[:60]]
    return arrived


def _request(protocol: h11.Connection, gateway: GatewayProcess, number: int) -> bytes:
    fields = {"prompt": f"a fox, {number}", "size": f"{SIDE}x{SIDE}", "steps": STEPS}
    body = json.dumps({**fields, "stream": True, "partial_images": PREVIEWS}).encode()
    headers = {
        "Host": f"127.0.0.1:{gateway.port}",
        "Authorization": f"Bearer {gateway.token}",
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
    }
    head = protocol.send(h11.Request(method="POST", target=GENERATIONS, headers=list(headers.items())))
    return (head or b"") + (protocol.send(h11.Data(data=body)) or b"") + (protocol.send(h11.EndOfMessage()) or b"")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
