"""Rates: the narrower limit counts, and a bucket never gives more than it says."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.config.policies import TokenPolicy
from appliance.config.settings import Settings
from appliance.protocol.errors import RateLimited
from appliance.toolbus.rates import Rate, RateLimits, decide_rate


@pytest.mark.parametrize(
    ("rps", "burst", "own_rps", "own_burst", "expected"),
    [
        (0, 0, None, None, None),
        (0, 5, None, None, None),
        (2.5, 0, None, None, Rate(2.5, 3)),
        (0.1, 0, None, None, Rate(0.1, 1)),
        (2, 9, None, None, Rate(2, 9)),
        (2, 9, 1, 4, Rate(1, 4)),
        (2, 9, 5, 40, Rate(2, 9)),
        (0, 0, 5, None, Rate(5, 5)),
        (4, 0, 0, 0, Rate(4, 4)),
    ],
)
def test_a_policy_can_only_narrow(
    rps: float, burst: int, own_rps: float | None, own_burst: int | None, expected: Rate | None
) -> None:
    settings = Settings(tools_rate_limit_rps=rps, tools_rate_limit_burst=burst)
    policy = TokenPolicy(tools_rate_limit_rps=own_rps, tools_rate_limit_burst=own_burst)
    assert decide_rate(settings, policy) == expected


@given(
    gaps=st.lists(st.floats(0, 3), min_size=1, max_size=60),
    rps=st.floats(0.1, 20),
    burst=st.integers(1, 10),
)
def test_no_window_lets_more_through_than_burst_and_rate_allow(gaps: list[float], rps: float, burst: int) -> None:
    limits = RateLimits()
    now = 0.0
    taken: list[float] = []
    for gap in gaps:
        now += gap
        try:
            limits.take_nowait("a", Rate(rps, burst), now)
            taken.append(now)
        except RateLimited:
            continue
    for first in range(len(taken)):
        for last in range(first, len(taken)):
            assert last - first + 1 <= burst + (taken[last] - taken[first]) * rps + 1e-6


def test_the_time_that_is_said_is_enough() -> None:
    limits = RateLimits()
    rate = Rate(3, 1)
    limits.take_nowait("a", rate, 10.0)
    with pytest.raises(RateLimited) as refused:
        limits.take_nowait("a", rate, 10.1)
    assert refused.value.retry_after_s is not None
    limits.take_nowait("a", rate, 10.1 + refused.value.retry_after_s + 1e-9)
