"""A configuration loaded from a table of variables, with an empty home and no files of the machine's own."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from appliance.config.errors import ConfigError, Mistake
from appliance.config.loading import Configuration, load_configuration

Load = Callable[..., Configuration]
Refuse = Callable[..., list[Mistake]]


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    directory = tmp_path / "etc"
    directory.mkdir()
    return directory


@pytest.fixture
def load(tmp_path: Path, etc: Path) -> Load:
    def run(environ: Mapping[str, str] | None = None, **variables: str) -> Configuration:
        return load_configuration({"HOME": str(tmp_path / "home"), **(environ or {}), **variables}, etc=etc)

    return run


@pytest.fixture
def refuse(load: Load) -> Refuse:
    def run(environ: Mapping[str, str] | None = None, **variables: str) -> list[Mistake]:
        with pytest.raises(ConfigError) as caught:
            load(environ, **variables)
        for mistake in caught.value.mistakes:
            assert "\n" not in str(mistake)
        return list(caught.value.mistakes)

    return run


@pytest.fixture
def backends_file(tmp_path: Path) -> Callable[[str], str]:
    def write(text: str) -> str:
        path = tmp_path / "backends.yaml"
        path.write_text(text)
        return str(path)

    return write
