"""Logins: they go to the classes of their provider, whole or not at all, and are never shown."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.config.conftest import Load, Refuse

CLASSES = """backends:
  gpu_heavy: {base_url: "http://ada2:9090", provider: invokeai, supported_capabilities: [images]}
  other: {base_url: "http://ada3:7860", provider: openai_images, supported_capabilities: [images]}
"""


def test_the_invokeai_login_goes_to_its_classes_alone_and_is_never_shown(
    load: Load, backends_file: Callable[[str], str]
) -> None:
    configuration = load(
        BACKENDS_CONFIG_PATH=backends_file(CLASSES),
        IMAGES_BACKEND="http_invokeai",
        IMAGES_INVOKEAI_USER="me@example.org",
        IMAGES_INVOKEAI_PASSWORD="very-secret",
    )
    classes = configuration.backends.classes
    login = classes["gpu_heavy"].login
    assert login is not None
    assert (login.user, login.password.get_secret_value(), login.by_basic) == ("me@example.org", "very-secret", False)
    assert classes["other"].login is None
    assert "very-secret" not in repr(configuration)


@pytest.mark.parametrize("half", ["USER", "PASSWORD"])
def test_half_a_login_is_refused(refuse: Refuse, half: str) -> None:
    (mistake,) = refuse(**{f"IMAGES_INVOKEAI_{half}": "x"})
    assert re.search(r"IMAGES_INVOKEAI_.* is missing: user and password are set together", str(mistake))
    assert f"IMAGES_INVOKEAI_{half}" not in str(mistake)


def test_a_password_in_a_file_that_others_may_read_is_warned_of(load: Load, tmp_path: Path) -> None:
    file = tmp_path / "appliance.env"
    file.write_text("IMAGES_INVOKEAI_USER=me@example.org\nIMAGES_INVOKEAI_PASSWORD=very-secret\n")
    file.chmod(0o644)
    (warning,) = [str(each) for each in load(APPLIANCE_ENV_FILE=str(file)).warnings if "secrets" in str(each)]
    assert "chmod 600" in warning
