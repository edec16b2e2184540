"""Throttle: guessing at tokens is slow for the one who guesses, and for nobody else."""

from collections import OrderedDict
from collections.abc import Callable
from functools import lru_cache
from ipaddress import ip_address, ip_network
from typing import Any

from appliance.protocol.errors import TooManyAttempts

BURST = 60.0  # wrong tokens that a peer may send at once: a house full of misconfigured clients stays below
PER_SECOND = 1.0
MAX_PEERS = 4096


class GuessThrottle:
    """A bucket of wrong tokens per peer (an IPv6 peer is its /64).

    A peer whose bucket is empty gets TooManyAttempts for everything but a token that was right from there before:
    whoever shares the address with the guesser goes on working, and a guess is refused whether it was right or not.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._known: OrderedDict[tuple[str, bytes], None] = OrderedDict()

    def check(self, peer: str, right_digest: bytes | None) -> None:
        """Raises TooManyAttempts. `right_digest`: of the token that was presented, if it is right."""
        key = _peer_key(peer)
        if self._wrong_so_far(key) < BURST:
            return
        if right_digest is not None and (key, right_digest) in self._known:
            return
        raise TooManyAttempts(retry_after_s=1 / PER_SECOND)

    def wrong(self, peer: str) -> None:
        """Count a wrong token."""
        key = _peer_key(peer)
        self._buckets[key] = (self._wrong_so_far(key) + 1, self._now())
        _keep_newest(self._buckets, key)

    def right(self, peer: str, digest: bytes) -> None:
        """Remember that the token of this digest was right from this peer."""
        key = (_peer_key(peer), digest)
        self._known[key] = None
        _keep_newest(self._known, key)

    def _wrong_so_far(self, key: str) -> float:
        count, at = self._buckets.get(key, (0.0, 0.0))
        return max(0.0, count - (self._now() - at) * PER_SECOND) if count else 0.0


def _keep_newest(table: OrderedDict[Any, Any], key: object) -> None:
    table.move_to_end(key)
    if len(table) > MAX_PEERS:
        table.popitem(last=False)


@lru_cache(MAX_PEERS)
def _peer_key(peer: str) -> str:
    address = ip_address(peer)
    if address.version == 4:
        return peer
    return str(ip_network((address, 64), strict=False))
