"""The env file: where it is, what counts before what, and lines that cannot be read."""

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.config.environment import read_variables
from appliance.config.errors import Findings
from tests.config.conftest import Load, Refuse


@pytest.fixture
def env_file(tmp_path: Path) -> Path:
    path = tmp_path / "box.env"
    path.touch(mode=0o600)
    return path


def test_the_environment_counts_before_the_env_file_before_the_default(load: Load, env_file: Path) -> None:
    env_file.write_text("GATEWAY_PORT=1111\nOBSERVABILITY_PORT=2222\n")
    configuration = load(APPLIANCE_ENV_FILE=str(env_file), GATEWAY_PORT="3333")
    assert (configuration.settings.gateway_port, configuration.settings.observability_port) == (3333, 2222)
    assert configuration.origins["gateway_port"] == "environment"
    assert configuration.origins["observability_port"] == f"{env_file}:2"
    assert configuration.origins["gateway_host"] == "default"
    assert configuration.warnings == ()


def test_an_empty_variable_is_not_set(load: Load, env_file: Path) -> None:
    env_file.write_text("GATEWAY_PORT=1111\nOBSERVABILITY_PORT=\n")
    configuration = load(APPLIANCE_ENV_FILE=str(env_file), GATEWAY_PORT="", IMAGES_BACKEND="")
    assert configuration.settings.gateway_port == 1111
    assert configuration.settings.observability_port == 8801
    assert configuration.origins["observability_port"] == "default"
    assert configuration.settings.images_backend == "mock"


def test_the_machines_env_file_is_read_when_it_exists(load: Load, etc: Path) -> None:
    assert load().settings.gateway_port == 8800
    (etc / "appliance.env").write_text("GATEWAY_PORT=1111\n")
    assert load().settings.gateway_port == 1111


def test_a_named_env_file_stands_for_the_machines_one(load: Load, etc: Path, env_file: Path) -> None:
    (etc / "appliance.env").write_text("GATEWAY_PORT=1111\n")
    assert load(APPLIANCE_ENV_FILE=str(env_file)).settings.gateway_port == 8800


def test_a_named_env_file_must_exist(refuse: Refuse, tmp_path: Path) -> None:
    (mistake,) = refuse(APPLIANCE_ENV_FILE=str(tmp_path / "none.env"))
    assert mistake.where == "APPLIANCE_ENV_FILE"
    assert "does not exist" in mistake.message


def test_an_env_file_that_cannot_be_read_is_refused(refuse: Refuse, tmp_path: Path) -> None:
    (mistake,) = refuse(APPLIANCE_ENV_FILE=str(tmp_path))
    assert mistake.where == str(tmp_path)
    assert "cannot be read" in mistake.message


def test_quotes_comments_and_export_are_understood_and_dollars_stay(load: Load, env_file: Path) -> None:
    env_file.write_bytes(
        b"\xef\xbb\xbf# a comment\r\n\r\nexport IMAGES_OPENAI_MODEL='a # b'\r\n"
        b'IMAGES_OPENAI_MODEL_FAST="x\\ty" # said\r\nIMAGES_OPENAI_MODEL_SLOW=${HOME}\r\n'
    )
    settings = load(APPLIANCE_ENV_FILE=str(env_file)).settings
    assert settings.images_openai_model == "a # b"
    assert settings.images_openai_model_fast == "x\ty"
    assert settings.images_openai_model_slow == "${HOME}"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("GATEWAY_PORT=1\n\n\nGATEWAY_HOST\n", 4),
        ("\n\nA='unclosed s3cret\nB=1\n", 3),
        ("just words s3cret\n", 1),
        ("1NAME=s3cret\n", 1),
        ("NA-ME=s3cret\n", 1),
        ("=s3cret\n", 1),
        ("A=1\n\xff", 2),
    ],
)
def test_a_bad_line_is_named_and_not_repeated(refuse: Refuse, env_file: Path, text: str, line: int) -> None:
    env_file.write_bytes(text.encode("latin-1"))
    mistake = refuse(APPLIANCE_ENV_FILE=str(env_file))[0]
    assert mistake.where == f"{env_file}:{line}"
    assert "s3cret" not in str(mistake)


@pytest.mark.parametrize("data", [b"A=1\0B", b"#" * 1_000_001])
def test_what_is_no_env_file_is_refused(refuse: Refuse, env_file: Path, data: bytes) -> None:
    env_file.write_bytes(data)
    (mistake,) = refuse(APPLIANCE_ENV_FILE=str(env_file))
    assert mistake.where == str(env_file)


def test_a_bad_value_is_named_by_file_line_and_variable(refuse: Refuse, env_file: Path) -> None:
    env_file.write_text("# box\n\nGATEWAY_PORT=many\n")
    (mistake,) = refuse(APPLIANCE_ENV_FILE=str(env_file))
    assert mistake.where == f"{env_file}:3: GATEWAY_PORT"


def test_a_variable_that_is_set_twice_gets_a_warning(load: Load, env_file: Path) -> None:
    env_file.write_text("GATEWAY_PORT=1\nGATEWAY_PORT=2\n")
    configuration = load(APPLIANCE_ENV_FILE=str(env_file))
    assert configuration.settings.gateway_port == 2
    (warning,) = configuration.warnings
    assert warning.startswith(f"{env_file}:2: GATEWAY_PORT is set again")


def test_an_env_file_with_a_token_that_others_may_read_gets_a_warning(load: Load, env_file: Path) -> None:
    env_file.write_text("GATEWAY_BEARER_TOKEN=0123456789abcdef\n")
    assert load(APPLIANCE_ENV_FILE=str(env_file)).warnings == ()
    env_file.chmod(0o640)
    (warning,) = load(APPLIANCE_ENV_FILE=str(env_file)).warnings
    assert f"chmod 600 {env_file}" in warning


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("GATEWAY_BEARER_TOKNE", "GATEWAY_BEARER_TOKEN"),
        ("IMAGE_BACKEND", "IMAGES_BACKEND"),
        ("OBSERVABILITY_PROT", "OBSERVABILITY_PORT"),
        ("HEALTH_CHECK_INTERVAL_SECS", "HEALTH_CHECK_INTERVAL_SEC"),
    ],
)
def test_a_slip_in_a_name_gets_a_warning(load: Load, name: str, near: str) -> None:
    (warning,) = load({name: "s3cret"}).warnings
    assert warning == f"{name}: is not a setting: did you mean {near}?"


@pytest.mark.parametrize(
    "name",
    [
        "SOME_ALLOW_SHELL", "AGENCY_SPECS_PATH", "QUEUE_MAX", "SOME_LOG_MODE", "ROUTER",
        "OLLAMA_HOST", "OLLAMA_MODELS", "HOST", "PORT", "PATH", "GATEWAY_INTERFACE", "BACKEND_FLAVOUR",
    ],
)  # fmt: skip
def test_variables_of_others_are_not_spoken_of(load: Load, name: str) -> None:
    assert load({name: "1"}).warnings == ()


@settings(deadline=None)  # two shared cores
@given(
    st.dictionaries(
        st.from_regex(r"[A-Z][A-Z0-9_]{0,10}", fullmatch=True),
        st.text(st.characters(codec="ascii", exclude_characters="\0'\\"), min_size=1, max_size=20),
        max_size=5,
    )
)
def test_quoted_values_come_back_as_they_were(variables: dict[str, str]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        text = "".join(f"{name}='{value}'\n" for name, value in variables.items())
        (Path(directory) / "appliance.env").write_bytes(text.encode())
        read = read_variables({}, Path(directory), findings := Findings.none())
    assert findings.mistakes == []
    assert {name: value.text for name, value in read.items()} == variables
