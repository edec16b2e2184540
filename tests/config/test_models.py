"""Models of classes, the scripted class, and which class is the default one."""

from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.config.classes import Models
from tests.config.conftest import Load, Refuse

BackendsFile = Callable[[str], str]
VLLM = "vllm: {base_url: 'http://ada2:8000', provider: openai, supported_capabilities: [chat]}"
DRAWER = "drawer: {base_url: 'http://ada2:7860', provider: a1111, supported_capabilities: [images]}"
SCRIPT = '{"models": ["parrot"], "rules": [{"answer": {"text": "hello"}}]}'


def _file(*entries: str) -> str:
    return "backends:\n" + "".join(f"  {entry}\n" for entry in entries)


def test_classes_of_the_settings_have_their_models(load: Load) -> None:
    classes = load(OLLAMA_MODEL_FAST="small", MLX_MODEL_STRONG="big").backends.classes
    assert classes["ollama"].models == Models("qwen2.5:32b", "small")
    assert classes["local_mlx"].models == Models("big", "default_model")
    assert classes["gpu_heavy"].models == Models()


def test_classes_of_the_file_may_name_theirs(load: Load, backends_file: BackendsFile) -> None:
    path = backends_file(
        _file(
            "a: {provider: ollama, supported_capabilities: [chat], models: {strong: s, fast: f}}",
            "b: {provider: ollama, supported_capabilities: [chat], models: {fast: f}}",
            "c: {provider: ollama, supported_capabilities: [chat]}",
            "d: {provider: openai, supported_capabilities: [rerank], responses: native}",
            "e: {provider: openai, supported_capabilities: [chat]}",
        )
        + "legacy_mapping: {mlx: e}\n"
    )
    classes = load(BACKENDS_CONFIG_PATH=path).backends.classes
    assert {name: one.models for name, one in classes.items()} == {
        "a": Models("s", "f"),
        "b": Models("f", "f"),
        "c": Models("qwen2.5:32b", "qwen2.5:7b"),
        "d": Models("default", "default"),
        "e": Models("default_model", "default_model"),
    }
    assert [one.responses for one in classes.values()].count("native") == 1


@pytest.mark.parametrize(
    ("entry", "where", "what"),
    [
        ("{provider: ollama, supported_capabilities: [chat], models: {stronk: x}}", "a.models", "write strong"),
        ("{provider: ollama, supported_capabilities: [chat], models: x}", "a.models", "must be a mapping"),
        (
            "{provider: openai, supported_capabilities: [chat], responses: x}",
            "a.responses",
            "must be one of translated",
        ),
        ("{provider: ollama, supported_capabilities: [chat], responses: native}", "a.responses", "write translated"),
    ],
)
def test_bad_keys_of_a_class_are_named(
    refuse: Refuse, backends_file: BackendsFile, entry: str, where: str, what: str
) -> None:
    (mistake,) = refuse(BACKENDS_CONFIG_PATH=backends_file(_file(f"a: {entry}")))
    assert f"backends.{where}" in mistake.where
    assert what in mistake.message


# The default backend


def test_ollama_is_the_default_backend(load: Load) -> None:
    configuration = load()
    assert configuration.settings.default_backend == "ollama"
    assert configuration.origins["default_backend"] == "default"


@pytest.mark.parametrize("asked", ["mlx", "LOCAL_MLX", " local_mlx "])
def test_the_default_backend_becomes_a_class(load: Load, asked: str) -> None:
    configuration = load(DEFAULT_BACKEND=asked)
    assert configuration.settings.default_backend == "local_mlx"
    assert configuration.origins["default_backend"] == "environment"


@pytest.mark.parametrize(
    ("asked", "what"),
    [
        ("olama", "'olama' is no backend class: write ollama"),
        ("zzz", "is no backend class: write ollama or local_mlx"),
        ("gpu_heavy", "'gpu_heavy' does no chat: write ollama or local_mlx"),
    ],
)
def test_a_default_backend_that_does_not_chat_is_refused(refuse: Refuse, asked: str, what: str) -> None:
    (mistake,) = refuse(DEFAULT_BACKEND=asked)
    assert mistake.where == "DEFAULT_BACKEND"
    assert what in mistake.message


def test_without_ollama_the_first_class_that_chats_is_the_default(load: Load, backends_file: BackendsFile) -> None:
    configuration = load(BACKENDS_CONFIG_PATH=backends_file(_file(DRAWER, VLLM)))
    assert configuration.settings.default_backend == "vllm"
    assert configuration.origins["default_backend"] == "the first class that chats"
    assert set(configuration.aliases) == {"default", "fast"}


def test_a_box_that_only_draws_needs_no_default_backend(load: Load, backends_file: BackendsFile) -> None:
    assert load(BACKENDS_CONFIG_PATH=backends_file(_file(DRAWER))).aliases == {}


def test_an_unreadable_file_is_one_mistake_even_with_a_default_backend(refuse: Refuse) -> None:
    (mistake,) = refuse(BACKENDS_CONFIG_PATH="nowhere.yaml", DEFAULT_BACKEND="vllm")
    assert mistake.where.endswith("nowhere.yaml")


# The scripted model


def test_without_a_script_there_is_no_mock(load: Load) -> None:
    configuration = load()
    assert "mock" not in configuration.backends.classes
    assert "mock" not in configuration.aliases


def test_the_builtin_script_adds_a_class_and_answers_on_a_fresh_box(load: Load) -> None:
    configuration = load(MOCK_CHAT_SCRIPT="builtin")
    mock = configuration.backends.classes["mock"]
    assert (mock.provider, mock.base_url, mock.required, mock.configured) == ("mock_chat", "", False, True)
    assert dict(mock.limits) == {"chat": 4, "embeddings": 4, "rerank": 4}
    assert mock.capabilities == frozenset(mock.limits)
    assert mock.script is None
    assert {(alias.backend_class, alias.model) for alias in configuration.aliases.values()} == {("mock", "mock")}
    assert set(configuration.aliases) == {"default", "fast", "mock"}
    assert configuration.origins["default_backend"].startswith("MOCK_CHAT_SCRIPT")


@pytest.mark.parametrize(
    "variables",
    [
        {"OLLAMA_BASE_URL": "http://127.0.0.1:11434"},
        {"MLX_BASE_URL": "http://mac:8080"},
        {"DEFAULT_BACKEND": "ollama"},
        {"MODEL_ALIASES_JSON": '{"aliases": {"default": "ollama:x"}}'},
    ],
)
def test_a_real_backend_is_not_replaced_by_the_mock(load: Load, variables: dict[str, str]) -> None:
    configuration = load(variables, MOCK_CHAT_SCRIPT="builtin")
    assert configuration.settings.default_backend == "ollama"
    assert configuration.aliases["fast"].backend_class == "ollama"
    assert configuration.aliases["mock"].backend_class == "mock"


def test_a_real_class_of_the_file_is_not_replaced_by_the_mock(load: Load, backends_file: BackendsFile) -> None:
    configuration = load(BACKENDS_CONFIG_PATH=backends_file(_file(VLLM)), MOCK_CHAT_SCRIPT="builtin")
    assert configuration.settings.default_backend == "vllm"


@pytest.mark.parametrize("entry", [DRAWER, VLLM.replace("http://ada2:8000", "")])
def test_a_file_without_a_real_model_leaves_the_talking_to_the_mock(
    load: Load, backends_file: BackendsFile, entry: str
) -> None:
    configuration = load(BACKENDS_CONFIG_PATH=backends_file(_file(entry)), MOCK_CHAT_SCRIPT="builtin")
    assert configuration.settings.default_backend == "mock"
    assert configuration.origins["default_backend"].startswith("MOCK_CHAT_SCRIPT")


def test_the_mock_can_be_the_default_on_purpose(load: Load) -> None:
    configuration = load(OLLAMA_BASE_URL="http://a", DEFAULT_BACKEND="mock", MOCK_CHAT_SCRIPT="builtin")
    assert configuration.aliases["default"].backend_class == "mock"


def test_a_script_of_ones_own_brings_its_models(load: Load, tmp_path: Path) -> None:
    path = tmp_path / "script.json"
    path.write_text(SCRIPT)
    configuration = load(MOCK_CHAT_SCRIPT=str(path))
    script = configuration.backends.classes["mock"].script
    assert script is not None
    assert script.names == ("parrot",)
    assert configuration.aliases["mock"].model == "parrot"


def test_a_scripted_class_of_the_file_keeps_its_limits(load: Load, backends_file: BackendsFile, tmp_path: Path) -> None:
    path = tmp_path / "script.json"
    path.write_text(SCRIPT)
    entry = "mock: {provider: mock_chat, supported_capabilities: [chat], concurrency_limits: {chat: 1}}"
    configuration = load(BACKENDS_CONFIG_PATH=backends_file(_file(entry)), MOCK_CHAT_SCRIPT=str(path))
    mock = configuration.backends.classes["mock"]
    assert mock.limit("chat") == 1
    assert mock.script is not None


@pytest.mark.parametrize("text", [None, "{", '{"rules": []}'])
def test_a_bad_script_is_named(refuse: Refuse, tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "script.json"
    if text is not None:
        path.write_text(text)
    (mistake,) = refuse(MOCK_CHAT_SCRIPT=str(path))
    assert mistake.where == "MOCK_CHAT_SCRIPT"
    assert str(path) in mistake.message
    assert "write `builtin`" in mistake.message


def test_a_class_named_mock_that_is_real_is_refused(refuse: Refuse, backends_file: BackendsFile) -> None:
    path = backends_file(_file(VLLM.replace("vllm", "mock")))
    (mistake,) = refuse(BACKENDS_CONFIG_PATH=path, MOCK_CHAT_SCRIPT="builtin")
    assert mistake.where == "MOCK_CHAT_SCRIPT"
    assert "rename that one" in mistake.message
