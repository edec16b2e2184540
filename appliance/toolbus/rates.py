"""Rates: how often each token may call a tool. A token bucket for each, decided without waiting."""

import math
from dataclasses import dataclass

from appliance.config.policies import TokenPolicy
from appliance.config.settings import Settings
from appliance.protocol.errors import RateLimited


@dataclass(frozen=True, slots=True)
class Rate:
    """`rps`: calls a second in the long run; `burst`: calls that may come at once, at least 1."""

    rps: float
    burst: int


@dataclass(slots=True)
class _Bucket:
    level: float
    at: float


def decide_rate(settings: Settings, policy: TokenPolicy) -> Rate | None:
    """The narrower of the two, None without a limit. A policy can only narrow; 0 is no limit of its own."""
    rps = min((value for value in (settings.tools_rate_limit_rps, policy.tools_rate_limit_rps) if value), default=0.0)
    if not rps:
        return None
    bursts = (settings.tools_rate_limit_burst, policy.tools_rate_limit_burst)
    return Rate(rps, min((value for value in bursts if value), default=max(1, math.ceil(rps))))


class RateLimits:
    """One bucket for each token that has called; there are as many as tokens, which the operator counts out."""

    def __init__(self) -> None:
        self._buckets: dict[str, _Bucket] = {}

    def take_nowait(self, owner: str, rate: Rate | None, now: float) -> None:
        """Take one call from the bucket. Raises RateLimited with the time until there is one."""
        if rate is None:
            return
        bucket = self._buckets.setdefault(owner, _Bucket(rate.burst, now))
        bucket.level = min(rate.burst, bucket.level + (now - bucket.at) * rate.rps)
        bucket.at = now
        if bucket.level < 1:
            wait_s = (1 - bucket.level) / rate.rps
            raise RateLimited(f"This token may call {rate.rps:g} tools a second: wait {wait_s:.3g} s.", wait_s)
        bucket.level -= 1
