"""What must hold between settings, and between them and the files they name."""

from pathlib import Path

import pytest
import trustme

from tests.config.conftest import Load, Refuse

TOKEN = "0123456789abcdef"


@pytest.fixture(scope="module")
def pems(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("pems")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(directory / "ca.pem"))
    for name in ("one", "two"):
        pair = authority.issue_cert(f"{name}.local")
        pair.cert_chain_pems[0].write_to_path(str(directory / f"{name}.cert"))
        pair.private_key_pem.write_to_path(str(directory / f"{name}.key"))
        pair.private_key_and_cert_chain_pem.write_to_path(str(directory / f"{name}.pem"))
    (directory / "words").write_text("no certificate\n")
    # The header alone says that it is encrypted: OpenSSL asks for the password before it reads on.
    key = (directory / "one.key").read_text().splitlines()
    locked = ["Proc-Type: 4,ENCRYPTED", "DEK-Info: AES-128-CBC,00112233445566778899AABBCCDDEEFF", ""]
    (directory / "locked.key").write_text("\n".join([key[0], *locked, *key[1:], ""]))
    return directory


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.7", "ai.home", "::ffff:192.168.1.7"])
def test_a_public_bind_without_a_token_is_refused(refuse: Refuse, load: Load, host: str) -> None:
    (mistake,) = refuse(GATEWAY_HOST=host)
    assert mistake.where == "GATEWAY_HOST"
    assert "set GATEWAY_BEARER_TOKEN" in mistake.message
    assert load(GATEWAY_HOST=host, GATEWAY_BEARER_TOKEN=TOKEN).tokens


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost", "::ffff:127.0.0.1"])
def test_a_loopback_bind_needs_no_token(load: Load, host: str) -> None:
    assert load(GATEWAY_HOST=host).tokens == ()


@pytest.mark.parametrize(
    ("api", "observability"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("0.0.0.0", "127.0.0.1"),
        ("127.0.0.1", "::"),
        ("ai.home", "ai.home"),
        ("ai.home", "0.0.0.0"),
    ],
)
def test_two_listeners_cannot_share_a_port(refuse: Refuse, api: str, observability: str) -> None:
    (mistake,) = refuse(
        GATEWAY_BEARER_TOKEN=TOKEN,
        GATEWAY_HOST=api,
        OBSERVABILITY_HOST=observability,
        GATEWAY_PORT="9000",
        OBSERVABILITY_PORT="9000",
    )
    assert mistake.where == "OBSERVABILITY_PORT"


@pytest.mark.parametrize(
    "variables",
    [
        {"GATEWAY_PORT": "0", "OBSERVABILITY_PORT": "0"},
        {"GATEWAY_PORT": "9000", "OBSERVABILITY_PORT": "9000", "OBSERVABILITY_ENABLED": "false"},
        {"GATEWAY_PORT": "9000", "OBSERVABILITY_PORT": "9000", "OBSERVABILITY_HOST": "127.0.0.2"},
    ],
)
def test_listeners_that_do_not_meet_may_have_the_same_number(load: Load, variables: dict[str, str]) -> None:
    assert load(variables).warnings == ()


def test_open_metrics_get_a_warning(load: Load) -> None:
    (warning,) = load(OBSERVABILITY_HOST="0.0.0.0").warnings
    assert warning.startswith("OBSERVABILITY_HOST: health and metrics are open")
    assert load(OBSERVABILITY_HOST="0.0.0.0", OBSERVABILITY_ENABLED="no").warnings == ()


def test_a_certificate_and_its_key_are_taken(load: Load, pems: Path) -> None:
    settings = load(GATEWAY_TLS_CERT_PATH=f"{pems}/one.cert", GATEWAY_TLS_KEY_PATH=f"{pems}/one.key").settings
    assert settings.gateway_tls_cert_path == pems / "one.cert"


@pytest.mark.parametrize(
    ("cert", "key", "where", "what"),
    [
        ("one.cert", "", "GATEWAY_TLS_CERT_PATH", "needs GATEWAY_TLS_KEY_PATH"),
        ("", "one.key", "GATEWAY_TLS_KEY_PATH", "needs GATEWAY_TLS_CERT_PATH"),
        ("one.cert", "two.key", "GATEWAY_TLS_CERT_PATH", "key values mismatch"),
        ("none.cert", "one.key", "GATEWAY_TLS_CERT_PATH", "cannot be read"),
        ("one.cert", "none.key", "GATEWAY_TLS_KEY_PATH", "cannot be read"),
        ("words", "one.key", "GATEWAY_TLS_CERT_PATH", "cannot be used"),
        ("one.cert", "words", "GATEWAY_TLS_CERT_PATH", "cannot be used"),
        ("one.cert", "locked.key", "GATEWAY_TLS_CERT_PATH", "without a password"),
    ],
)
def test_a_certificate_that_cannot_be_served_is_refused(
    refuse: Refuse, pems: Path, cert: str, key: str, where: str, what: str
) -> None:
    (mistake,) = refuse(
        GATEWAY_TLS_CERT_PATH=str(pems / cert) if cert else "", GATEWAY_TLS_KEY_PATH=str(pems / key) if key else ""
    )
    assert mistake.where == where
    assert what in mistake.message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("BACKEND_CA_BUNDLE", "{}/ca.pem"),
        ("BACKEND_CLIENT_CERT", "{}/one.pem"),
        ("BACKEND_CLIENT_CERT", "{0}/one.cert, {0}/one.key"),
    ],
)
def test_certificates_for_backends_are_taken(load: Load, pems: Path, name: str, value: str) -> None:
    assert load({name: value.format(pems)}).origins[name.lower()] == "environment"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("BACKEND_CA_BUNDLE", "{}/words"),
        ("BACKEND_CA_BUNDLE", "{}/none.pem"),
        ("BACKEND_CLIENT_CERT", "{}/one.cert"),
        ("BACKEND_CLIENT_CERT", "{0}/one.cert,{0}/two.key"),
        ("BACKEND_CLIENT_CERT", "{0}/one.cert,{0}/locked.key"),
        ("BACKEND_CLIENT_CERT", "{0}/one.cert,{0}/none.key"),
        ("BACKEND_CLIENT_CERT", "{0}/one.cert,{0}/ca.pem,{0}/one.key"),
    ],
)
def test_certificates_for_backends_that_cannot_be_used_are_refused(
    refuse: Refuse, pems: Path, name: str, value: str
) -> None:
    (mistake,) = refuse({name: value.format(pems)})
    assert mistake.where == name


@pytest.mark.parametrize(
    "variables",
    [
        {"OLLAMA_BASE_URL": "http://127.0.0.1:8800"},
        {"MLX_BASE_URL": "http://localhost:8800/v1"},
        {"OLLAMA_BASE_URL": "http://[::1]:8801"},
        {"IMAGES_BACKEND": "http_a1111", "IMAGES_HTTP_BASE_URL": "http://127.0.0.1:8800"},
        {"GATEWAY_PORT": "80", "OLLAMA_BASE_URL": "http://localhost"},
    ],
)
def test_a_backend_that_is_this_gateway_itself_is_refused(refuse: Refuse, variables: dict[str, str]) -> None:
    (mistake,) = refuse(variables)
    assert "this gateway itself" in mistake.message


def test_a_relative_program_for_the_shell_is_refused(load: Load, refuse: Refuse) -> None:
    assert load(TOOLS_SHELL_ALLOWED_CMDS="ls,/usr/bin/wc").settings.tools_shell_allowed_cmds == ("ls", "/usr/bin/wc")
    (mistake,) = refuse(TOOLS_SHELL_ALLOWED_CMDS="ls,bin/wc")
    assert mistake.where == "TOOLS_SHELL_ALLOWED_CMDS"
    assert "begins with /" in mistake.message
