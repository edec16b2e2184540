"""The classes as the rest sees them: the embedded ones, and what IMAGES_* makes of the file's."""

import re
from collections.abc import Callable

import pytest

from tests.config.conftest import Load, Refuse

BackendsFile = Callable[[str], str]


def _gpu(base_url: str = "http://ada2:7860", provider: str = "openai_images", more: str = "") -> str:
    return (
        "backends:\n  gpu_heavy: {"
        f'base_url: "{base_url}", provider: {provider}, supported_capabilities: [images]{more}}}\n'
    )


def test_without_a_file_there_are_three_classes_and_none_is_required(load: Load) -> None:
    classes = load().backends.classes
    assert {name: (item.base_url, dict(item.limits)) for name, item in classes.items()} == {
        "ollama": ("http://127.0.0.1:11434", {"chat": 4, "embeddings": 4}),
        "local_mlx": ("", {"chat": 2, "embeddings": 2}),
        "gpu_heavy": ("", {"images": 2}),
    }
    assert not any(item.required for item in classes.values())


@pytest.mark.parametrize(
    ("backend", "provider", "probe"),
    [
        ("http_a1111", "a1111", "/sdapi/v1/samplers"),
        ("http_comfyui", "comfyui", "/system_stats"),
        ("http_openai_images", "openai_images", "/v1/models"),
        ("http_invokeai", "invokeai", "/api/v1/app/version"),
    ],
)
def test_without_a_file_images_settings_make_the_class(load: Load, backend: str, provider: str, probe: str) -> None:
    configuration = load(IMAGES_BACKEND=backend)
    gpu = configuration.backends.classes["gpu_heavy"]
    assert (gpu.base_url, gpu.provider, gpu.health.liveness) == ("http://127.0.0.1:7860", provider, probe)
    assert not gpu.required
    other = load(IMAGES_BACKEND=backend, IMAGES_HTTP_BASE_URL="http://ada2:9000/").backends.classes["gpu_heavy"]
    assert other.base_url == "http://ada2:9000"
    assert configuration.warnings == ()


def test_an_openai_style_base_url_may_end_in_v1_or_not(load: Load) -> None:
    configuration = load(
        MLX_BASE_URL="http://mac:8080/v1/",
        IMAGES_BACKEND="http_openai_images",
        IMAGES_HTTP_BASE_URL="http://ada2:1234/v1",
        OLLAMA_BASE_URL="http://box:11434/v1",
    )
    classes = configuration.backends.classes
    assert classes["local_mlx"].base_url == "http://mac:8080"
    assert classes["gpu_heavy"].base_url == "http://ada2:1234"
    assert classes["ollama"].base_url == "http://box:11434/v1"  # its own API: nothing to take off


@pytest.mark.parametrize("url", ["", "http://127.0.0.1:7860", "http://localhost:7860/", "http://[::1]:7860"])
def test_the_class_wins_over_a_loopback_default(load: Load, backends_file: BackendsFile, url: str) -> None:
    configuration = load(
        BACKENDS_CONFIG_PATH=backends_file(_gpu()), IMAGES_BACKEND="http_openai_images", IMAGES_HTTP_BASE_URL=url
    )
    assert configuration.backends.classes["gpu_heavy"].base_url == "http://ada2:7860"
    assert configuration.warnings == ()


@pytest.mark.parametrize("url", ["http://127.0.0.1:9999", "http://ada3:7860"])
def test_an_address_on_purpose_wins_over_the_class(load: Load, backends_file: BackendsFile, url: str) -> None:
    configuration = load(
        BACKENDS_CONFIG_PATH=backends_file(_gpu()), IMAGES_BACKEND="http_openai_images", IMAGES_HTTP_BASE_URL=url
    )
    assert configuration.backends.classes["gpu_heavy"].base_url == url
    (warning,) = configuration.warnings
    assert warning.startswith("IMAGES_HTTP_BASE_URL: counts")


def test_a_class_without_an_address_gets_the_default(load: Load, backends_file: BackendsFile) -> None:
    file = backends_file(_gpu(base_url="", provider="a1111"))
    assert load(BACKENDS_CONFIG_PATH=file, IMAGES_BACKEND="http_a1111").backends.classes["gpu_heavy"].base_url == (
        "http://127.0.0.1:7860"
    )
    assert load(BACKENDS_CONFIG_PATH=file).backends.classes["gpu_heavy"].base_url == ""


def test_images_backend_decides_the_provider_with_a_warning(load: Load, backends_file: BackendsFile) -> None:
    configuration = load(BACKENDS_CONFIG_PATH=backends_file(_gpu()), IMAGES_BACKEND="http_a1111")
    gpu = configuration.backends.classes["gpu_heavy"]
    assert (gpu.provider, gpu.health.liveness) == ("a1111", "/sdapi/v1/samplers")
    (warning,) = configuration.warnings
    assert "write `provider: a1111` in the file" in warning


def test_health_paths_of_the_operator_outlive_another_provider(load: Load, backends_file: BackendsFile) -> None:
    file = backends_file(_gpu(more=", health: {liveness: /up}"))
    gpu = load(BACKENDS_CONFIG_PATH=file, IMAGES_BACKEND="http_a1111").backends.classes["gpu_heavy"]
    assert (gpu.health.liveness, gpu.health.exact) == ("/up", True)


def test_another_class_may_draw(load: Load, backends_file: BackendsFile) -> None:
    file = backends_file(_gpu().replace("gpu_heavy", "studio"))
    configuration = load(BACKENDS_CONFIG_PATH=file, IMAGES_BACKEND="http_openai_images", IMAGES_BACKEND_CLASS="studio")
    assert configuration.backends.classes["studio"].base_url == "http://ada2:7860"


def test_a_real_class_behind_the_mock_gets_a_warning(load: Load, backends_file: BackendsFile) -> None:
    (warning,) = load(BACKENDS_CONFIG_PATH=backends_file(_gpu())).warnings
    assert "set IMAGES_BACKEND=http_openai_images" in warning
    assert load(BACKENDS_CONFIG_PATH=backends_file(_gpu(base_url=""))).warnings == ()


def test_an_address_that_the_mock_does_not_use_gets_a_warning(load: Load) -> None:
    (warning,) = load(IMAGES_HTTP_BASE_URL="http://ada2:7860").warnings
    assert warning.startswith("IMAGES_HTTP_BASE_URL: is not used, because IMAGES_BACKEND is mock")


@pytest.mark.parametrize(
    "variables", [{"IMAGES_BACKEND": "http_a1111"}, {"IMAGES_BACKEND_CLASS": "studio"}, {"IMAGES_BACKEND": "mock"}]
)
def test_pictures_that_were_asked_for_need_a_class(
    refuse: Refuse, backends_file: BackendsFile, variables: dict[str, str]
) -> None:
    file = backends_file(
        "backends:\n  a: {provider: ollama, supported_capabilities: [chat]}\n"
        "  b: {provider: a1111, supported_capabilities: [images]}\n"
    )
    (mistake,) = refuse(variables, BACKENDS_CONFIG_PATH=file)
    assert mistake.where == "IMAGES_BACKEND_CLASS"
    assert mistake.message.endswith("that does images: write b")


def test_a_class_for_pictures_must_do_images(refuse: Refuse) -> None:
    (mistake,) = refuse(IMAGES_BACKEND_CLASS="ollama")
    assert mistake.message.endswith("write gpu_heavy")


def test_a_file_without_pictures_starts_with_a_warning(load: Load, backends_file: BackendsFile) -> None:
    file = backends_file("backends:\n  a: {provider: ollama, supported_capabilities: [chat]}\n")
    (warning,) = load(BACKENDS_CONFIG_PATH=file).warnings
    assert "there is no class 'gpu_heavy' that does images" in warning


def test_addresses_that_the_file_replaces_get_a_warning(load: Load, backends_file: BackendsFile) -> None:
    file = backends_file(_gpu(base_url=""))
    warnings = load(BACKENDS_CONFIG_PATH=file, OLLAMA_BASE_URL="http://a", MLX_BASE_URL="http://b").warnings
    assert [warning.split(":")[0] for warning in warnings] == ["OLLAMA_BASE_URL", "MLX_BASE_URL"]


def test_two_classes_at_one_address_get_a_warning(load: Load) -> None:
    (warning,) = load(MLX_BASE_URL="http://127.0.0.1:11434").warnings
    assert warning.startswith("class local_mlx: has the base_url of class ollama")


def test_a_bad_class_is_one_mistake_not_two(refuse: Refuse, backends_file: BackendsFile) -> None:
    file = backends_file(_gpu(provider="vllm"))
    (mistake,) = refuse(BACKENDS_CONFIG_PATH=file, IMAGES_BACKEND="http_a1111")
    assert mistake.where == f"{file}:2: backends.gpu_heavy.provider"


def test_the_a1111_login_goes_to_every_class_that_is_one_and_is_never_shown(
    load: Load, backends_file: BackendsFile
) -> None:
    path = backends_file(
        _gpu(provider="a1111")
        + '  other: {base_url: "http://ada3:1", provider: openai_images, supported_capabilities: [images]}\n'
    )
    found = load(
        BACKENDS_CONFIG_PATH=path,
        IMAGES_BACKEND="http_a1111",
        IMAGES_A1111_USER="me",
        IMAGES_A1111_PASSWORD="very-secret",
    ).backends.classes
    login = found["gpu_heavy"].login
    assert login is not None
    assert (login.user, login.password.get_secret_value()) == ("me", "very-secret")
    assert found["other"].login is None
    assert "very-secret" not in repr(found)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"IMAGES_A1111_USER": "me"}, "IMAGES_A1111_PASSWORD.*together"),
        ({"IMAGES_A1111_PASSWORD": "x"}, "IMAGES_A1111_USER.*together"),
        ({"IMAGES_A1111_USER": "m:e", "IMAGES_A1111_PASSWORD": "x"}, "colon"),
    ],
)
def test_half_a_login_is_refused(refuse: Refuse, settings: dict[str, str], words: str) -> None:
    (mistake,) = refuse(**settings)
    assert re.search(words, str(mistake))
