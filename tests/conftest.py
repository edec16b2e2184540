"""Which tests run: those that start real programs wait for `--all`; those of whole processes run on the executable too."""

from pathlib import Path

import pytest

from tests.process import PROGRAM


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="run the tests marked `real` too: minutes, real programs")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--all"):
        return
    skipped = pytest.mark.skip(reason="starts a real program; run with --all")
    for item in items:
        if item.get_closest_marker("real"):
            item.add_marker(skipped)


@pytest.fixture(scope="session")
def executable() -> Path:
    """`dist/appliance`, built if the tree has changed since."""
    from tools.devtools.binary import ensure_executable  # noqa: PLC0415 -- most runs need none

    return ensure_executable()


@pytest.fixture(params=["source", pytest.param("executable", marks=pytest.mark.real)])
def program(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Which appliance `tests.process` starts: a module that uses this runs its tests on both."""
    if request.param == "executable":
        monkeypatch.setenv(PROGRAM, str(request.getfixturevalue("executable")))
    return str(request.param)
