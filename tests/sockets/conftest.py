"""What the socket tests share: everything is promised by both who speak HTTP/1.1, our lane and hypercorn's protocol."""

from collections.abc import Iterator

import pytest

from appliance.config.settings import Http1
from tests.sockets.listening import speaker


@pytest.fixture(params=["lane", "stock"])
def http1(request: pytest.FixtureRequest) -> Iterator[Http1]:
    """Run the test with each of them."""
    token = speaker.set(request.param)
    yield request.param
    speaker.reset(token)
