"""A fake InvokeAI's socket.io: who listens, and what they are told."""

import json
from dataclasses import dataclass, field
from typing import Any

import trio

from tests.fakes.http import GONE, Changes, Request
from tests.fakes.websocket import Peer

PATH = "/ws/socket.io/"
PING_S = 25.0  # engine.io's own default, as are the next two
PONG_TIMEOUT_S = 20.0
MAX_PAYLOAD = 1_000_000


@dataclass
class Listeners:
    """`peers`: those who subscribed to the queue. How it may fail: `absent`: no such route; `silent`: the upgrade is all
    that is answered; `refusing`: the connection is refused.
    """

    peers: list[Peer] = field(default_factory=list)
    changes: Changes = field(default_factory=Changes)
    absent: bool = False
    silent: bool = False
    refusing: bool = False
    pongs: int = 0

    async def until_listened_to(self) -> None:
        await self.changes.until(lambda: bool(self.peers))

    async def tell(self, event: str, said: dict[str, Any]) -> None:
        for peer in list(self.peers):
            try:
                await peer.send("42" + json.dumps([event, said]))
            except GONE:
                self.peers.remove(peer)

    async def serve(self, request: Request, *, is_allowed: Any) -> None:
        """One client, until it goes, or until it leaves a ping without an answer."""
        if self.absent:
            await request.respond_json(404, {"detail": "Not Found"})
            return
        peer = await Peer.over(request)
        if self.silent:
            await request.hung_up()
            return
        opening = {"sid": "e1", "upgrades": [], "pingInterval": 25000, "pingTimeout": 20000, "maxPayload": MAX_PAYLOAD}
        await peer.send("0" + json.dumps(opening))
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._ping, peer, nursery.cancel_scope)
                await self._hear(peer, is_allowed)
                nursery.cancel_scope.cancel()
        finally:
            if peer in self.peers:
                self.peers.remove(peer)

    async def _hear(self, peer: Peer, is_allowed: Any) -> None:
        async for frame in peer.messages():
            await self._answer(peer, frame, is_allowed)

    async def _answer(self, peer: Peer, frame: str, is_allowed: Any) -> None:
        if frame == "3":
            self.pongs += 1
            self.changes.notify()
        elif frame.startswith("40"):
            token = json.loads(frame[2:] or "{}").get("token")
            if self.refusing or not is_allowed(token):
                await peer.send('44{"message":"Connection rejected by server"}')
            else:
                await peer.send('40{"sid":"s1"}')
        elif json.loads(frame[2:]) == ["subscribe_queue", {"queue_id": "default"}]:
            self.peers.append(peer)
            self.changes.notify()

    async def _ping(self, peer: Peer, scope: trio.CancelScope) -> None:
        while True:
            await trio.sleep(PING_S)
            pongs = self.pongs
            await peer.send("2")
            with trio.move_on_after(PONG_TIMEOUT_S) as patience:
                await self.changes.until(lambda: self.pongs > pongs)  # noqa: B023 - waited for before it changes
            if patience.cancelled_caught:
                scope.cancel()
