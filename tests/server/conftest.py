"""What the tests of this room share: a house whose image backend they hold."""

from pathlib import Path
from typing import cast

import pytest

from appliance.backends.registry import IMAGE_BACKENDS, LANGUAGE_BACKENDS
from tests.gated_backend import GatedBackend
from tests.gated_language import GatedLanguage


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> GatedBackend:
    """Stands in for A1111; closed until the test opens its gate."""
    fake = GatedBackend()
    monkeypatch.setitem(cast("dict[str, object]", IMAGE_BACKENDS), "http_a1111", fake)
    return fake


@pytest.fixture
def drawing(tmp_path: Path) -> dict[str, str]:
    """Settings of a house that draws with it."""
    return {"IMAGES_BACKEND": "http_a1111"}


@pytest.fixture
def language(monkeypatch: pytest.MonkeyPatch) -> GatedLanguage:
    """Stands in for Ollama."""
    fake = GatedLanguage()
    monkeypatch.setitem(cast("dict[str, object]", LANGUAGE_BACKENDS), "ollama", fake)
    return fake
