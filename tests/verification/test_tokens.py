"""Finding the token: the order of places, and a local secret that stays local."""

from pathlib import Path

import pytest

from appliance.verification.tokens import find_token, state_dir

LOCAL = "http://127.0.0.1:8800"


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "appliance").mkdir()
    (tmp_path / "appliance" / "token").write_text("generated\n")
    return {"XDG_STATE_HOME": str(tmp_path)}


def test_the_flag_comes_first(home: dict[str, str]) -> None:
    assert find_token("flag", {**home, "GATEWAY_BEARER_TOKEN": "env"}, LOCAL) == "flag"


def test_the_environment_comes_before_files(home: dict[str, str]) -> None:
    assert find_token(None, {**home, "GATEWAY_BEARER_TOKEN": "env"}, LOCAL) == "env"


def test_several_tokens_replace_the_one(home: dict[str, str]) -> None:
    environ = {**home, "GATEWAY_BEARER_TOKEN": "env", "GATEWAY_BEARER_TOKENS": " first , second"}
    assert find_token(None, environ, LOCAL) == "first"


def test_a_local_gateway_opens_with_its_generated_token(home: dict[str, str]) -> None:
    assert find_token(None, home, LOCAL) == "generated"


def test_the_generated_token_is_not_shown_to_another_machine(home: dict[str, str]) -> None:
    assert find_token(None, home, "http://192.168.1.2:8800") is None


def test_the_operators_file_comes_before_the_generated_one(home: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("# ours\n\nnamed\nother\n")
    assert find_token(None, {**home, "GATEWAY_TOKEN_FILE": str(tmp_path / "tokens")}, LOCAL) == "named"


def test_no_file_is_no_token(tmp_path: Path) -> None:
    assert find_token(None, {"XDG_STATE_HOME": str(tmp_path)}, LOCAL) is None


def test_the_state_directory_of_a_unit_comes_first() -> None:
    environ = {"STATE_DIRECTORY": "/var/lib/a:/var/lib/b", "XDG_STATE_HOME": "/x"}
    assert state_dir(environ) == Path("/var/lib/a")
    assert state_dir({"HOME": "/home/u"}) == Path("/home/u/.local/state/appliance")
