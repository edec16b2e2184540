"""The plain stack: quart-trio under hypercorn with httpx, a relay as it is written in an afternoon; nothing is checked.

The gateway stands on two of the three, so this is what its own way through them is measured beside.
"""

import argparse
import sys
from collections.abc import AsyncIterator, Sequence
from functools import partial

import httpx
import trio
from hypercorn.config import Config
from hypercorn.trio import serve
from quart import Response, request
from quart_trio import QuartTrio

CHAT = "/v1/chat/completions"
TIMEOUT_S = 60.0


def make_app(client: httpx.AsyncClient) -> QuartTrio:
    """A relay of chats, whole and streamed."""
    app = QuartTrio(__name__)

    @app.get("/health")
    async def health() -> dict[str, bool]:
        return {"ok": True}

    @app.post(CHAT)
    async def chat() -> Response:
        body = await request.get_data()
        wanted = client.build_request("POST", CHAT, content=body, headers={"content-type": "application/json"})
        answer = await client.send(wanted, stream=True)
        content_type = answer.headers.get("content-type")
        if content_type == "text/event-stream":
            return Response(_pieces(answer), answer.status_code, content_type=content_type)
        return Response(await answer.aread(), answer.status_code, content_type=content_type)

    return app


async def _pieces(answer: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for piece in answer.aiter_raw():
            yield piece
    finally:
        await answer.aclose()


async def run(port: int, upstream_port: int) -> None:
    """Serve until killed."""
    config = Config()
    config.bind = [f"127.0.0.1:{port}"]
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    base_url = f"http://127.0.0.1:{upstream_port}"
    async with httpx.AsyncClient(base_url=base_url, limits=limits, timeout=TIMEOUT_S) as client:
        await serve(make_app(client), config)


def serve_alone(argv: Sequence[str]) -> int:
    """A program of its own: the port it listens on, the port it asks."""
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("upstream_port", type=int)
    arguments = parser.parse_args(argv)
    trio.run(partial(run, arguments.port, arguments.upstream_port))
    return 0


if __name__ == "__main__":
    sys.exit(serve_alone(sys.argv[1:]))
