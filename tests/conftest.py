"""Which tests run: those that start real programs wait for `--all`."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="run the tests marked `real` too: minutes, real programs")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--all"):
        return
    skipped = pytest.mark.skip(reason="starts a real program; run with --all")
    for item in items:
        if item.get_closest_marker("real"):
            item.add_marker(skipped)
