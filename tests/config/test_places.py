"""Places: the state directory, and where relative paths lie."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.config.conftest import Load, Refuse


@pytest.mark.parametrize(
    ("variables", "state_dir"),
    [
        ({"STATE_DIRECTORY": "/var/lib/a:/var/lib/b", "XDG_STATE_HOME": "/x"}, "/var/lib/a"),
        ({"STATE_DIRECTORY": "", "XDG_STATE_HOME": "/x", "HOME": "/h"}, "/x/appliance"),
        ({"XDG_STATE_HOME": "relative", "HOME": "/h"}, "/h/.local/state/appliance"),
        ({"HOME": "/h"}, "/h/.local/state/appliance"),
    ],
)
def test_the_state_directory_is_systemds_then_xdgs_then_the_homes(
    load: Load, variables: dict[str, str], state_dir: str
) -> None:
    configuration = load(variables)
    assert configuration.state_dir == Path(state_dir)
    assert configuration.settings.request_log_path == Path(state_dir) / "requests.jsonl"
    assert configuration.settings.ui_image_dir == Path(state_dir) / "images"


def test_a_relative_state_directory_is_refused(refuse: Refuse) -> None:
    (mistake,) = refuse(STATE_DIRECTORY="var/lib/a")
    assert mistake.where == "STATE_DIRECTORY"


def test_without_a_home_a_state_directory_must_be_named(
    load: Load, refuse: Refuse, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nobody(_uid: int) -> None:
        raise KeyError

    monkeypatch.setattr("pwd.getpwuid", nobody)
    (mistake,) = refuse(HOME="")
    assert mistake.where == "STATE_DIRECTORY"
    assert load(HOME="", STATE_DIRECTORY="/s").state_dir == Path("/s")


def test_without_home_in_the_environment_the_users_own_is_taken(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pwd.getpwuid", lambda _uid: SimpleNamespace(pw_dir="/srv/box"))
    assert load(HOME="").state_dir == Path("/srv/box/.local/state/appliance")


def test_relative_paths_of_records_lie_below_the_state_directory(load: Load) -> None:
    settings = load(STATE_DIRECTORY="/s", REQUEST_LOG_PATH="log/r.jsonl", UI_IMAGE_DIR="/elsewhere").settings
    assert settings.request_log_path == Path("/s/log/r.jsonl")
    assert settings.ui_image_dir == Path("/elsewhere")


def test_other_relative_paths_are_taken_from_the_working_directory(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tokens").write_text("0123456789abcdef\n")
    (tmp_path / "tokens").chmod(0o600)
    monkeypatch.chdir(tmp_path)
    assert load(GATEWAY_TOKEN_FILE="tokens").settings.gateway_token_file == tmp_path / "tokens"


def test_a_tilde_is_the_home(load: Load) -> None:
    assert load(HOME="/h", UI_IMAGE_DIR="~/pictures").settings.ui_image_dir == Path("/h/pictures")


def test_the_machines_backends_file_is_used_when_none_is_named(load: Load, etc: Path, tmp_path: Path) -> None:
    text = "backends: {%s: {provider: ollama, supported_capabilities: [chat]}}"
    (etc / "backends.yaml").write_text(text % "found")
    (tmp_path / "named.yaml").write_text(text % "named")
    found = load()
    assert list(found.backends.classes) == ["found"]
    assert found.origins["backends_config_path"] == f"found in {etc}"
    named = load(BACKENDS_CONFIG_PATH=str(tmp_path / "named.yaml"))
    assert list(named.backends.classes) == ["named"]
    assert named.origins["backends_config_path"] == "environment"


def test_a_machines_file_behind_a_closed_directory_is_a_mistake(
    refuse: Refuse, etc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(path: Path, *_arguments: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "exists", closed)
    monkeypatch.setattr(Path, "open", closed)
    assert [mistake.where for mistake in refuse()] == [
        f"{etc}/appliance.env",
        f"{etc}/backends.yaml",
        f"{etc}/model_aliases.json",
        f"{etc}/tools_registry.json",
        f"{etc}/agent_specs.json",
    ]
