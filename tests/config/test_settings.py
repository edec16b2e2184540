"""Single settings: names, defaults, text to value, and what is said of text that cannot be used."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from appliance.config.settings import Settings
from appliance.config.values import (
    parse_base_url,
    parse_boolean,
    parse_host,
    parse_host_ports,
    parse_network,
    split_csv,
)
from tests.config.conftest import Load, Refuse


@pytest.mark.parametrize("field", Settings.model_fields)
def test_every_setting_says_what_it_is(field: str) -> None:
    assert Settings.model_fields[field].description


def test_settings_may_be_made_of_values_too() -> None:
    made = Settings(
        metrics_enabled=False, gateway_allowed_hosts=("ai.home",), ip_allowlist=(parse_network("10.0.0.0/8"),)
    )
    assert not made.metrics_enabled
    assert made.gateway_allowed_hosts == ("ai.home",)
    assert [str(network) for network in made.ip_allowlist] == ["10.0.0.0/8"]


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().gateway_port = 1  # type: ignore[misc]


def test_defaults_are_those_of_the_contract(load: Load) -> None:
    settings = load().settings
    assert (settings.gateway_host, settings.gateway_port) == ("127.0.0.1", 8800)
    assert (settings.observability_host, settings.observability_port) == ("127.0.0.1", 8801)
    assert settings.observability_enabled
    assert settings.max_request_bytes == 1_000_000
    assert (settings.images_backend, settings.images_backend_class) == ("mock", "gpu_heavy")
    assert settings.images_http_base_url == "http://127.0.0.1:7860"
    assert (settings.images_http_timeout_sec, settings.images_a1111_steps) == (120, 20)
    assert (settings.images_max_pixels, settings.ui_image_ttl_sec) == (2_000_000, 900)
    assert settings.ui_image_max_bytes == 50_000_000
    assert (settings.health_check_interval_sec, settings.health_check_timeout_sec) == (30, 5)
    assert settings.backend_verify_tls
    assert settings.metrics_enabled
    assert settings.request_log_enabled


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", True),
        ("true", True),
        ("YES", True),
        (" on ", True),
        ("0", False),
        ("False", False),
        ("no", False),
        ("off", False),
    ],
)
def test_a_boolean_has_eight_spellings(load: Load, text: str, value: bool) -> None:
    assert load(METRICS_ENABLED=text).settings.metrics_enabled is value


@pytest.mark.parametrize(
    ("name", "text", "what"),
    [
        ("METRICS_ENABLED", "maybe", "write true or false"),
        ("METRICS_ENABLED", "t", "write true or false"),
        ("GATEWAY_PORT", "80x", "'80x' cannot be used: write a whole number from 0 to 65535"),
        ("GATEWAY_PORT", "65536", "from 0 to 65535"),
        ("GATEWAY_PORT", "88.5", "a whole number"),
        ("HEAD_TIMEOUT_SEC", "0", "a number above 0 to 86400"),
        ("HEAD_TIMEOUT_SEC", "nan", "a number above 0"),
        ("HEAD_TIMEOUT_SEC", "inf", "a number above 0"),
        ("IMAGES_BACKEND", "dalle", "write mock or http_a1111 or http_comfyui or http_invokeai or http_openai_images"),
        ("IMAGES_HTTP_BASE_URL", "ada2.local:7860", "http://host:port"),
        ("IMAGES_HTTP_BASE_URL", "ftp://ada2.local", "http://host:port"),
        ("IMAGES_HTTP_BASE_URL", "http://", "http://host:port"),
        ("IMAGES_HTTP_BASE_URL", "http://ada2:0", "from 1 to 65535"),
        ("IMAGES_HTTP_BASE_URL", "http://ada2:99999", "http://host:port"),
        ("IMAGES_HTTP_BASE_URL", "http://ada2:", "from 1 to 65535"),
        ("IMAGES_HTTP_BASE_URL", "http://ada2/a b", "characters that no URL has"),
        ("IMAGES_HTTP_BASE_URL", "http://300.1.1.1", "is no host"),
        ("IMAGES_HTTP_BASE_URL", "http://127.1:7860", "is no host"),
        ("IMAGES_HTTP_BASE_URL", "http://2130706433", "is no host"),
        ("PUBLIC_BASE_URL", "https://ai.home/?x=1", "without ? and #"),
        ("PUBLIC_BASE_URL", "https://ai.home/#x", "without ? and #"),
        ("IP_ALLOWLIST", "10.0.0.0/8, lan", "'lan' is no IP address or CIDR"),
        ("IP_ALLOWLIST", "10.0.0.0/33", "is no IP address or CIDR"),
        ("IP_ALLOWLIST", "10.0.0.7/8", "write 10.0.0.0/8"),
        ("TRUST_PROXY_CIDRS", "10.0.0.0/255.0.0.0/8", "is no IP address or CIDR"),
        ("GATEWAY_ALLOWED_HOSTS", "ai.home,https://ai.home", "without scheme and port"),
        ("GATEWAY_ALLOWED_HOSTS", "ai.home:8800", "without scheme and port"),
        ("GATEWAY_ALLOWED_HOSTS", "*", "without scheme and port"),
        ("GATEWAY_HOST", "0.0.0.0:8800", "without scheme and port"),
        ("GATEWAY_HOST", "*", "without scheme and port"),
        ("UI_IMAGE_MAX_BYTES", "3000000000", "UI_IMAGE_STORE_MAX_BYTES"),
        ("MAX_REQUEST_BYTES", "-1", "from 0"),
        ("MAX_CONNECTIONS", "0", "a whole number from 1"),
        ("IMAGES_OPENAI_MODEL", "\udcff", "is not UTF-8"),
    ],
)
def test_a_bad_value_is_named_with_what_to_write(refuse: Refuse, name: str, text: str, what: str) -> None:
    (mistake,) = refuse({name: text})
    assert mistake.where == name
    assert what in mistake.message


def test_all_bad_values_are_named_at_once(refuse: Refuse) -> None:
    mistakes = refuse(GATEWAY_PORT="x", METRICS_ENABLED="x", IMAGES_MAX_PIXELS="0", BACKENDS_CONFIG_PATH="nowhere.yaml")
    assert [mistake.where for mistake in mistakes[:3]] == ["GATEWAY_PORT", "METRICS_ENABLED", "IMAGES_MAX_PIXELS"]
    assert mistakes[3].where.endswith("/nowhere.yaml")


@pytest.mark.parametrize(
    ("url", "read"),
    [
        ("http://ada2.local:7860/", "http://ada2.local:7860"),
        (" https://ai.home/gateway// ", "https://ai.home/gateway"),
        ("http://[::1]:7860", "http://[::1]:7860"),
        ("http://my_container:7860", "http://my_container:7860"),
        ("", ""),
    ],
)
def test_a_base_url_loses_its_last_slash(url: str, read: str) -> None:
    assert parse_base_url(url) == read


@pytest.mark.parametrize("name", ["IMAGES_HTTP_BASE_URL", "PUBLIC_BASE_URL", "OLLAMA_BASE_URL", "MLX_BASE_URL"])
def test_a_password_in_a_url_is_refused_and_not_repeated(refuse: Refuse, name: str) -> None:
    (mistake,) = refuse({name: "http://user:hunter2hunter2@ada2:7860"})
    assert "without them" in mistake.message
    assert "hunter2" not in str(mistake)


@pytest.mark.parametrize(
    ("text", "network"),
    [
        ("10.0.0.7", "10.0.0.7/32"),
        ("fd00::/8", "fd00::/8"),
        ("::ffff:10.0.0.7", "10.0.0.7/32"),
        ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
    ],
)
def test_a_network_has_one_form(text: str, network: str) -> None:
    assert str(parse_network(text)) == network


@pytest.mark.parametrize(
    ("text", "host"),
    [("[::1]", "::1"), ("0:0:0:0:0:0:0:1", "::1"), ("LocalHost", "localhost"), ("ai.home.", "ai.home"), ("::", "::")],
)
def test_a_host_has_one_form(text: str, host: str) -> None:
    assert parse_host(text) == host


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("127.0.0.1, LocalHost", ("127.0.0.1", "localhost")),
        ("ada2.local:7860", ("ada2.local:7860",)),
        ("::1,[::1],[::1]:9,0:0::1", ("::1", "[::1]:9")),
        ("a.example.,a.example", ("a.example",)),
        ("10.0.0.1:65535", ("10.0.0.1:65535",)),
    ],
)
def test_hosts_with_ports_have_one_form(text: str, read: tuple[str, ...]) -> None:
    assert parse_host_ports(text) == read
    assert parse_host_ports(",".join(read)) == read


@pytest.mark.parametrize(
    "text", ["http://a", "a:0", "a:65536", "a:x", "a:", ":80", "*", "*.a", "a/b", "1.2.3", "a:08", "u@a"]
)
def test_what_is_no_host_with_a_port_is_refused(refuse: Refuse, text: str) -> None:
    (mistake,) = refuse(TOOLS_HTTP_ALLOWED_HOSTS=text)
    assert mistake.where == "TOOLS_HTTP_ALLOWED_HOSTS"
    assert "write" in mistake.message


@settings(deadline=None)  # two shared cores
@given(st.lists(st.text("abc.:/ \t", max_size=8), max_size=6))
def test_csv_keeps_every_item_that_is_not_blank(items: list[str]) -> None:
    assert split_csv(",".join(items)) == tuple(item.strip() for item in items if item.strip())


@settings(deadline=None)  # two shared cores
@given(st.text(max_size=8))
def test_text_is_a_boolean_or_refused(text: str) -> None:
    try:
        value = parse_boolean(text)
    except ValueError as error:
        assert "write true or false" in str(error)  # noqa: PT017 -- most texts are refused, a few are not
    else:
        assert isinstance(value, bool)


@settings(deadline=None)  # two shared cores
@given(st.text(max_size=30))
def test_any_text_is_a_url_or_refused_with_advice(text: str) -> None:
    try:
        url = parse_base_url(text)
    except ValueError as error:
        assert "write" in str(error)  # noqa: PT017 -- as above
    else:
        assert parse_base_url(url) == url
