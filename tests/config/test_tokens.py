"""Tokens: their sources in order, what is refused, and the one that is made; none is ever shown."""

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.config.policies import TokenPolicy
from appliance.config.tokens import TokenMistake, load_or_create_token, make_token
from tests.config.conftest import Load, Refuse

ONE, TWO, THREE = "one-0123456789abcdef", "two-0123456789abcdef", "three-0123456789abcdef"
WriteTokens = Callable[..., Path]


@pytest.fixture
def write_tokens(tmp_path: Path) -> WriteTokens:
    def write(text: str | bytes, name: str = "tokens", mode: int = 0o600) -> Path:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        path.chmod(mode)
        return path

    return write


def test_the_csv_replaces_the_one_token(load: Load) -> None:
    configuration = load(GATEWAY_BEARER_TOKEN=ONE, GATEWAY_BEARER_TOKENS=f" {TWO},, {THREE} ")
    assert [token.secret.decode() for token in configuration.tokens] == [TWO, THREE]
    assert configuration.token_source == "GATEWAY_BEARER_TOKENS"
    assert configuration.warnings == ()


def test_the_one_token_may_hold_a_comma(load: Load) -> None:
    (token,) = load(GATEWAY_BEARER_TOKEN=f"{ONE},{TWO}").tokens
    assert token.secret.decode() == f"{ONE},{TWO}"


def test_a_token_file_holds_one_token_a_line(load: Load, write_tokens: WriteTokens) -> None:
    path = write_tokens(f"# phones\n{ONE}\n\n  {TWO}  \r\n")
    configuration = load(GATEWAY_TOKEN_FILE=str(path))
    assert [token.secret.decode() for token in configuration.tokens] == [ONE, TWO]
    assert configuration.token_source == "GATEWAY_TOKEN_FILE"


def test_systemds_credential_counts_before_the_token_file(load: Load, write_tokens: WriteTokens) -> None:
    credential = write_tokens(ONE, "credentials/tokens", mode=0o440)
    path = write_tokens(TWO)
    configuration = load(CREDENTIALS_DIRECTORY=str(credential.parent), GATEWAY_TOKEN_FILE=str(path))
    assert [token.secret.decode() for token in configuration.tokens] == [ONE]
    assert configuration.token_source == "$CREDENTIALS_DIRECTORY/tokens"
    (warning,) = configuration.warnings
    assert warning.startswith("GATEWAY_TOKEN_FILE: is not used")


def test_a_file_beside_a_variable_gets_a_warning(load: Load, write_tokens: WriteTokens) -> None:
    configuration = load(GATEWAY_BEARER_TOKEN=ONE, GATEWAY_TOKEN_FILE=str(write_tokens(TWO)))
    assert [token.secret.decode() for token in configuration.tokens] == [ONE]
    assert "because GATEWAY_BEARER_TOKEN is set" in configuration.warnings[0]


def test_a_credentials_directory_of_other_things_is_no_source(load: Load, tmp_path: Path) -> None:
    assert load(CREDENTIALS_DIRECTORY=str(tmp_path)).token_source is None


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_a_token_file_that_others_may_open_is_refused(refuse: Refuse, write_tokens: WriteTokens, mode: int) -> None:
    path = write_tokens(ONE, mode=mode)
    (mistake,) = refuse(GATEWAY_TOKEN_FILE=str(path))
    assert f"chmod 600 {path}" in mistake.message


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "holds no token"),
        ("# nothing\n\n", "holds no token"),
        (b"\xff" * 20, "not ASCII"),
        ("x" * 1_000_001, "larger than"),
        (f"{ONE}\ntwo words 0123456789\n", "token 2 holds a space"),
        ("x" * 1025, "longer than 1024"),
    ],
)
def test_a_token_file_that_cannot_be_used_is_refused(
    refuse: Refuse, write_tokens: WriteTokens, text: str | bytes, what: str
) -> None:
    (mistake,) = refuse(GATEWAY_TOKEN_FILE=str(write_tokens(text)))
    assert mistake.where == "GATEWAY_TOKEN_FILE"
    assert what in mistake.message


def test_a_missing_token_file_is_refused(refuse: Refuse, tmp_path: Path) -> None:
    (mistake,) = refuse(GATEWAY_TOKEN_FILE=str(tmp_path / "none"))
    assert "cannot be read" in mistake.message


def test_a_fifo_does_not_hold_up_the_start(refuse: Refuse, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o600)
    (mistake,) = refuse(GATEWAY_TOKEN_FILE=str(tmp_path / "fifo"))
    assert "no regular file" in mistake.message


@pytest.mark.parametrize(
    ("name", "text", "what"),
    [
        ("GATEWAY_BEARER_TOKEN", "hush hush-0123456789", "token 1 holds a space"),
        ("GATEWAY_BEARER_TOKEN", "hush\u00e9-0123456789abc", "not visible ASCII"),
        ("GATEWAY_BEARER_TOKENS", f"{ONE},hush\t-0123456789abc", "token 2 holds a space"),
        ("GATEWAY_BEARER_TOKEN", "hush\udcff-0123456789abc", "is not UTF-8"),
        ("GATEWAY_BEARER_TOKENS", " , ", "holds no token"),
    ],
)
def test_a_token_of_other_characters_is_refused_and_not_repeated(
    refuse: Refuse, name: str, text: str, what: str
) -> None:
    (mistake,) = refuse({name: text})
    assert mistake.where == name
    assert what in mistake.message
    assert "hush" not in str(mistake)


def test_a_short_token_is_refused_outside_loopback_only(load: Load, refuse: Refuse) -> None:
    assert len(load(GATEWAY_BEARER_TOKEN="x" * 15).tokens) == 1
    (mistake,) = refuse(GATEWAY_BEARER_TOKENS=f"{ONE},{'x' * 15}", GATEWAY_HOST="0.0.0.0")
    assert mistake.where == "GATEWAY_BEARER_TOKENS"
    assert "token 2 is shorter than 16" in mistake.message
    assert load(GATEWAY_BEARER_TOKEN="x" * 16, GATEWAY_HOST="0.0.0.0").tokens


def test_a_token_that_is_there_twice_counts_once(load: Load) -> None:
    configuration = load(GATEWAY_BEARER_TOKENS=f"{ONE},{TWO},{ONE}")
    assert len(configuration.tokens) == 2
    assert configuration.warnings == ("GATEWAY_BEARER_TOKENS: the same token is there twice",)


def test_a_fingerprint_names_a_token_and_is_not_its_digest() -> None:
    token = make_token(ONE)
    assert len(token.fingerprint) == 16
    assert token.fingerprint == make_token(ONE).fingerprint != make_token(TWO).fingerprint
    assert not token.digest.hex().startswith(token.fingerprint)


def test_no_repr_shows_a_token(load: Load) -> None:
    policies = json.dumps({ONE: {"max_request_bytes": 10}})
    configuration = load(GATEWAY_BEARER_TOKENS=ONE, GATEWAY_BEARER_TOKEN=TWO, GATEWAY_TOKEN_POLICIES_JSON=policies)
    for secret in (ONE, TWO, make_token(ONE).digest.hex(), repr(make_token(ONE).digest)):
        assert secret not in repr(configuration)


# Policies


def test_a_policy_belongs_to_its_token(load: Load) -> None:
    policies = {ONE: {"ip_allowlist": "10.0.0.0/8, fd00::1", "max_request_bytes": 10, "tools_allowlist": "a, b"}}
    one, two = load(GATEWAY_BEARER_TOKENS=f"{ONE},{TWO}", GATEWAY_TOKEN_POLICIES_JSON=json.dumps(policies)).tokens
    assert [str(network) for network in one.policy.ip_allowlist] == ["10.0.0.0/8", "fd00::1/128"]
    assert (one.policy.max_request_bytes, one.policy.tools_allowlist) == (10, ("a", "b"))
    assert two.policy == TokenPolicy()


def test_every_policy_of_the_contract_is_read(load: Load) -> None:
    flags = ["shell", "fs", "fs_write", "http_fetch", "git", "system_info", "models_refresh"]
    policy = {f"tools_allow_{name}": index % 2 == 0 for index, name in enumerate(flags)}
    policy |= {"tools_rate_limit_rps": 0.5, "tools_rate_limit_burst": 3}
    (token,) = load(GATEWAY_BEARER_TOKEN=ONE, GATEWAY_TOKEN_POLICIES_JSON=json.dumps({ONE: policy})).tokens
    assert {name: getattr(token.policy, name) for name in policy} == policy


@pytest.mark.parametrize(
    ("policies", "what"),
    [
        (f'{{"{ONE}": }}', "is no JSON at character 25"),
        ("[]", "is no JSON object"),
        (f'{{"{ONE}": []}}', "entry 1 is no object"),
        (f'{{"{ONE}": {{}}, "{ONE}": {{}}}}', "twice"),
        (f'{{"{ONE}": {{"max_request_bytes": NaN}}}}', "NaN"),
        (f'{{"{ONE}": {{"max_request_bytes": {"9" * 5000}}}}}', "more than 15 digits"),
        ('{"x": ' * 100_000, "nested too deeply"),
        (f'{{"{ONE}": {{}}, "{THREE}": {{}}}}', "entry 2 is for a token that is not configured"),
        (f'{{"{TWO}": {{"max_request_byte": 1}}}}', "entry 1 (token 2): 'max_request_byte' is no policy: write `max_request_bytes`"),
        (f'{{"{ONE}": {{"{"x" * 41}": 1}}}}', "a key is no policy"),
        (f'{{"{ONE}": {{"max_request_bytes": "10"}}}}', "`max_request_bytes` must be a whole number"),
        (f'{{"{ONE}": {{"max_request_bytes": -1}}}}', "`max_request_bytes` must be a whole number"),
        (f'{{"{ONE}": {{"max_request_bytes": true}}}}', "`max_request_bytes` must be a whole number"),
        (f'{{"{ONE}": {{"tools_rate_limit_rps": 1e400}}}}', "`tools_rate_limit_rps` must be a number"),
        (f'{{"{ONE}": {{"tools_allow_shell": "true"}}}}', "`tools_allow_shell` must be true or false"),
        (f'{{"{ONE}": {{"tools_allowlist": ["a"]}}}}', "`tools_allowlist` must be text with commas"),
        (f'{{"{ONE}": {{"ip_allowlist": "lan"}}}}', "`ip_allowlist`: 'lan' is no IP address"),
    ],
)  # fmt: skip
def test_a_bad_policy_is_refused_without_the_token(refuse: Refuse, policies: str, what: str) -> None:
    (mistake,) = refuse(GATEWAY_BEARER_TOKENS=f"{ONE},{TWO}", GATEWAY_TOKEN_POLICIES_JSON=policies)
    assert mistake.where == "GATEWAY_TOKEN_POLICIES_JSON"
    assert what in mistake.message
    for token in (ONE, TWO, THREE):
        assert token not in str(mistake)


# The token that is made


def test_the_first_start_makes_a_token_and_the_next_one_keeps_it(tmp_path: Path) -> None:
    first = load_or_create_token(tmp_path / "state" / "appliance")
    second = load_or_create_token(tmp_path / "state" / "appliance")
    assert (first.is_new, second.is_new) == (True, False)
    assert first.token == second.token
    assert len(first.token.secret) == 43  # 32 bytes
    assert first.path.read_text() == f"{first.token.secret.decode()}\n"
    assert stat.S_IMODE(first.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(first.path.parent.stat().st_mode) == 0o700
    assert os.listdir(first.path.parent) == ["token"]


def test_an_open_state_directory_is_closed(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    load_or_create_token(tmp_path)
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700


def test_two_first_starts_at_once_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real_link = os.link

    def link_later(source: Path, target: Path) -> None:
        monkeypatch.setattr(os, "link", real_link)
        others.append(load_or_create_token(tmp_path))
        real_link(source, target)

    others: list[object] = []
    monkeypatch.setattr(os, "link", link_later)
    mine = load_or_create_token(tmp_path)
    assert not mine.is_new
    assert [mine.token] == [other.token for other in others]
    assert os.listdir(tmp_path) == ["token"]


def test_a_token_that_cannot_be_written_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        load_or_create_token(tmp_path)
    assert os.listdir(tmp_path) == []


def test_a_full_disk_does_not_hide_a_token_that_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_arguments: object) -> None:
        raise OSError(28, "No space left on device")

    first = load_or_create_token(tmp_path)
    monkeypatch.setattr(os, "fsync", full)
    assert load_or_create_token(tmp_path).token == first.token


@pytest.mark.parametrize(("text", "mode"), [("short\n", 0o600), (f"{ONE}\n{TWO}\n", 0o600), ("", 0o600), (ONE, 0o644)])
def test_a_made_token_that_was_spoilt_is_refused(tmp_path: Path, text: str, mode: int) -> None:
    (tmp_path / "token").write_text(text)
    (tmp_path / "token").chmod(mode)
    with pytest.raises(TokenMistake):
        load_or_create_token(tmp_path)


def test_checking_makes_no_token(load: Load, tmp_path: Path) -> None:
    load()
    assert not (tmp_path / "home").exists()
