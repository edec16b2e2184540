"""A clock for tests that talk over loopback sockets: it jumps only after the kernel has had time to deliver."""

import pytest
from trio.testing import MockClock

DELIVERY_S = 0.004  # real seconds; loopback needs microseconds, a loaded machine milliseconds


@pytest.fixture
def loopback_clock() -> MockClock:
    return MockClock(autojump_threshold=DELIVERY_S)
