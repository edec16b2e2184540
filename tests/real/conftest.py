"""What the tests with real programs share: each is found or made once, or the test says why it is skipped."""

import pytest

from tests.real.sdserver import CannotBuild, SdServer, ensure_sd_server


@pytest.fixture(scope="session")
def sd_server() -> SdServer:
    """The real image server, ready to be started with `open_sd_server`."""
    try:
        return ensure_sd_server()
    except CannotBuild as problem:
        pytest.skip(f"no real image server: {problem}")
