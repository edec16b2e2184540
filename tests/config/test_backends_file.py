"""The backends file: what it may hold, and every mistake with its line and key."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.config.backends_file import read_backends_file
from appliance.config.classes import BackendClass, HealthPaths, PayloadPolicy
from appliance.config.errors import Findings
from appliance.config.marked_yaml import load_marked_yaml
from tests.config.conftest import Load, Refuse

BackendsFile = Callable[[str], str]
SMALL = "provider: ollama, supported_capabilities: [chat]"


def test_the_example_of_the_contract_is_read(load: Load, backends_file: BackendsFile) -> None:
    path = backends_file("""
backends:
  gpu_heavy:
    base_url: http://${ADA}:7860/v1/
    provider: openai_images
    description: RTX 6000 Ada
    required: false
    supported_capabilities: [images]
    concurrency_limits: {images: 2}
    health: {liveness: /healthz, readiness: /readyz}
    payload_policy: {images_format: url, images_allow_base64: no, images_max_bytes: 5_000_000}
    on_disconnect: finish
  local_mlx: {provider: openai, supported_capabilities: [chat, embeddings]}
legacy_mapping: {mlx: local_mlx}
""")
    configuration = load(BACKENDS_CONFIG_PATH=path, ADA="ada2.local", IMAGES_BACKEND="http_openai_images")
    assert configuration.backends.classes["gpu_heavy"] == BackendClass(
        name="gpu_heavy",
        base_url="http://ada2.local:7860",
        provider="openai_images",
        capabilities=frozenset({"images"}),
        limits={"images": 2},
        health=HealthPaths("/healthz", "/readyz", exact=True),
        description="RTX 6000 Ada",
        required=False,
        payload_policy=PayloadPolicy("url", images_allow_base64=False, images_max_bytes=5_000_000),
        on_disconnect="finish",
    )
    assert configuration.backends.legacy_mapping == {"mlx": "local_mlx"}
    assert configuration.warnings == ()


def test_what_a_class_does_not_say_has_a_default(load: Load, backends_file: BackendsFile) -> None:
    path = backends_file(f"backends:\n  a: {{{SMALL}, description: ~}}\n")
    backend_class = load(BACKENDS_CONFIG_PATH=path).backends.classes["a"]
    assert backend_class.required
    assert (backend_class.base_url, backend_class.description, backend_class.on_disconnect) == ("", "", "cancel")
    assert backend_class.limit("chat") == 1
    assert backend_class.health == HealthPaths("/api/version", "/api/version", exact=False)
    assert backend_class.payload_policy == PayloadPolicy()


@pytest.mark.parametrize(
    ("health", "paths"),
    [
        ("{liveness: /a}", HealthPaths("/a", "/a", exact=True)),
        ("{readiness: /b}", HealthPaths("/b", "/b", exact=True)),
        ("{}", HealthPaths("/api/version", "/api/version", exact=False)),
    ],
)
def test_one_health_path_answers_both_questions(
    load: Load, backends_file: BackendsFile, health: str, paths: HealthPaths
) -> None:
    path = backends_file(f"backends:\n  a: {{{SMALL}, health: {health}}}\n")
    assert load(BACKENDS_CONFIG_PATH=path).backends.classes["a"].health == paths


@pytest.mark.parametrize(
    ("provider", "capability", "path"),
    [
        ("a1111", "images", "/sdapi/v1/samplers"),
        ("comfyui", "images", "/system_stats"),
        ("invokeai", "images", "/api/v1/app/version"),
        ("openai_images", "images", "/v1/models"),
        ("openai", "rerank", "/v1/models"),
        ("ollama", "embeddings", "/api/version"),
    ],
)
def test_every_provider_has_a_path_to_ask(
    load: Load, backends_file: BackendsFile, provider: str, capability: str, path: str
) -> None:
    file = backends_file(f"backends:\n  a: {{provider: {provider}, supported_capabilities: [{capability}]}}\n")
    assert load(BACKENDS_CONFIG_PATH=file).backends.classes["a"].health.liveness == path


@pytest.mark.parametrize(
    ("line", "key", "what", "text"),
    [
        (1, "", "must be a mapping", "- a\n"),
        (1, "backend", "is unknown: write backends", "backend: {}\n"),
        (1, "", "has no `backends`", "legacy_mapping: {}\n"),
        (1, "", "has no `backends`", "backends:\n"),
        (2, "backends", "has no classes", "\nbackends: {}\n"),
        (2, "backends.a", "must be a mapping", "backends:\n  a:\n"),
        (3, "backends", "`a` is there twice", f"backends:\n  a: {{{SMALL}}}\n  a: {{{SMALL}}}\n"),
        (2, "backends.GPU", "is no class name", f"backends:\n  GPU: {{{SMALL}}}\n"),
        (2, "backends.-a", "is no class name", f"backends:\n  -a: {{{SMALL}}}\n"),
        (2, "backends." + "a" * 65, "is no class name", f"backends:\n  {'a' * 65}: {{{SMALL}}}\n"),
        (2, "backends", "has a key that is not a word", f"backends:\n  [a]: {{{SMALL}}}\n"),
        (2, "backends.a", "has no `provider`", "backends:\n  a: {supported_capabilities: [chat]}\n"),
        (2, "backends.a", "has no `supported_capabilities`", "backends:\n  a: {provider: ollama}\n"),
        (2, "backends.a.provider", "must be one of a1111, comfyui", "backends:\n  a: {provider: vllm}\n"),
        (3, "backends.a.provder", "is unknown: write provider", "backends:\n  a:\n    provder: ollama\n"),
        (3, "backends.a.healht", "is unknown: write health", f"backends:\n  a: {{{SMALL},\n    healht:\n      {{}}}}\n"),
        (3, "backends.a.base_url", "http://host:port", f"backends:\n  a: {{{SMALL},\n    base_url: ada2}}\n"),
        (3, "backends.a.base_url", "must be text", f"backends:\n  a: {{{SMALL},\n    base_url: 7860}}\n"),
        (3, "backends.a.base_url", "without them", f"backends:\n  a: {{{SMALL},\n    base_url: 'http://u:hush@h'}}\n"),
        (3, "backends.a.base_url", "${NOWHERE} is not set", f"backends:\n  a: {{{SMALL},\n    base_url: '${{NOWHERE}}'}}\n"),
        (3, "backends.a.base_url", "without a name", f"backends:\n  a: {{{SMALL},\n    base_url: '${{A:-b}}'}}\n"),
        (3, "backends.a.description", "put it in quotes", f"backends:\n  a: {{{SMALL},\n    description: 4090}}\n"),
        (3, "backends.a.required", "must be true or false", f"backends:\n  a: {{{SMALL},\n    required: maybe}}\n"),
        (3, "backends.a.required", "must be a single value", f"backends:\n  a: {{{SMALL},\n    required: [yes]}}\n"),
        (2, "backends.a.supported_capabilities", "must be a list", "backends:\n  a: {provider: ollama, supported_capabilities: chat}\n"),
        (2, "backends.a.supported_capabilities", "is empty", "backends:\n  a: {provider: ollama, supported_capabilities: []}\n"),
        (5, "backends.a.supported_capabilities.1", "must be one of chat", "backends:\n  a:\n    provider: ollama\n    supported_capabilities: [chat,\n      vision]\n"),
        (2, "backends.a.supported_capabilities.0", "nothing that provider a1111 does: write images", "backends:\n  a: {provider: a1111, supported_capabilities: [chat]}\n"),
        (3, "backends.a.concurrency_limits.chat", "from 1 to 1024", f"backends:\n  a: {{{SMALL},\n    concurrency_limits: {{chat: 0}}}}\n"),
        (3, "backends.a.concurrency_limits.chat", "from 1 to 1024", f"backends:\n  a: {{{SMALL},\n    concurrency_limits: {{chat: 1025}}}}\n"),
        (3, "backends.a.concurrency_limits.chat", "from 1 to 1024", f"backends:\n  a: {{{SMALL},\n    concurrency_limits: {{chat: 2.0}}}}\n"),
        (3, "backends.a.concurrency_limits.chat", "from 1 to 1024", f"backends:\n  a: {{{SMALL},\n    concurrency_limits: {{chat: true}}}}\n"),
        (3, "backends.a.concurrency_limits.image", "is unknown: write images", f"backends:\n  a: {{{SMALL},\n    concurrency_limits: {{image: 1}}}}\n"),
        (4, "backends.a.health.readiness", "must be a path", f"backends:\n  a: {{{SMALL},\n    health: {{liveness: /a,\n    readiness: http://h/}}}}\n"),
        (3, "backends.a.health.liveness", "must be a path", f"backends:\n  a: {{{SMALL},\n    health: {{liveness: //h/x}}}}\n"),
        (3, "backends.a.health.live", "is unknown: write liveness", f"backends:\n  a: {{{SMALL},\n    health: {{live: /}}}}\n"),
        (3, "backends.a.payload_policy.images_max_bytes", "from 1 to 67108864", f"backends:\n  a: {{{SMALL},\n    payload_policy: {{images_max_bytes: 67108865}}}}\n"),
        (3, "backends.a.payload_policy.images_format", "forbids: write url", f"backends:\n  a: {{{SMALL},\n    payload_policy: {{images_format: b64_json, images_allow_base64: false}}}}\n"),
        (3, "backends.a.payload_policy.images_format", "must be one of url", f"backends:\n  a: {{{SMALL},\n    payload_policy: {{images_format: png}}}}\n"),
        (3, "backends.a.on_disconnect", "must be one of cancel, finish", f"backends:\n  a: {{{SMALL},\n    on_disconnect: abort}}\n"),
        (3, "legacy_mapping.mlx", "is no class of this file: write one of a", f"backends:\n  a: {{{SMALL}}}\nlegacy_mapping: {{mlx: b}}\n"),
        (3, "legacy_mapping.MLX", "is no class name", f"backends:\n  a: {{{SMALL}}}\nlegacy_mapping: {{MLX: a}}\n"),
        (3, "", "is not YAML", f"backends:\n  a: {{{SMALL}}}\n b: {{}}\n"),
        (2, "", "is not YAML", "backends:\n\ta: 1\n"),
        (2, "", "is not YAML", "backends: &a\n  b: *c\n"),
        (2, "", "is not YAML", "backends: {}\n---\nbackends: {}\n"),
    ],
)  # fmt: skip
def test_a_mistake_has_its_line_and_key(
    refuse: Refuse, backends_file: BackendsFile, line: int, key: str, what: str, text: str
) -> None:
    path = backends_file(text)
    (mistake,) = refuse(BACKENDS_CONFIG_PATH=path)
    assert mistake.where == (f"{path}:{line}: {key}" if key else f"{path}:{line}")
    assert what in mistake.message
    assert "hush" not in str(mistake)


def test_every_bad_class_is_named(refuse: Refuse, backends_file: BackendsFile) -> None:
    path = backends_file(f"backends:\n  a: {{{SMALL}, x: 1}}\n  b: {{{SMALL}}}\n  c: {{provider: ollama}}\n")
    assert [mistake.where for mistake in refuse(BACKENDS_CONFIG_PATH=path)] == [
        f"{path}:2: backends.a.x",
        f"{path}:4: backends.c",
    ]


@pytest.mark.parametrize(
    ("data", "where", "what"),
    [
        (b"", "", "is empty"),
        (b"# nothing\n", "", "is empty"),
        (b"a: 1\nb: \xff\n", ":2", "not UTF-8"),
        (b"a: \x07\n", "", "forbids"),
        (b"#" * 262_145, "", "larger than"),
        (b"[" * 100_000, ":1", "deeper than 16"),
        (b"a: " + b"{b: " * 16, ":1", "deeper than 16"),
    ],
)
def test_a_file_that_is_no_backends_file_is_refused(
    refuse: Refuse, tmp_path: Path, data: bytes, where: str, what: str
) -> None:
    path = tmp_path / "bad.yaml"
    path.write_bytes(data)
    (mistake,) = refuse(BACKENDS_CONFIG_PATH=str(path))
    assert mistake.where == f"{path}{where}"
    assert what in mistake.message


def test_a_missing_file_is_refused(refuse: Refuse) -> None:
    (mistake,) = refuse(BACKENDS_CONFIG_PATH="/nowhere/backends.yaml")
    assert mistake.where == "/nowhere/backends.yaml"
    assert "BACKENDS_CONFIG_PATH" in mistake.message


def test_a_variable_comes_from_the_env_file_too_and_two_dollars_are_one(
    load: Load, backends_file: BackendsFile, tmp_path: Path
) -> None:
    (tmp_path / "box.env").write_text("ADA=ada2.local\nSLOTS=3\n")
    path = backends_file(f"""backends:
  a: {{{SMALL}, base_url: "http://${{ADA}}", description: "$$5 a $day", concurrency_limits: {{chat: "${{SLOTS}}"}}}}
""")
    read = load(BACKENDS_CONFIG_PATH=path, APPLIANCE_ENV_FILE=str(tmp_path / "box.env")).backends.classes["a"]
    assert read.base_url == "http://ada2.local"
    assert read.description == "$5 a $day"
    assert read.limit("chat") == 3


def test_an_empty_variable_is_as_good_as_none(refuse: Refuse, backends_file: BackendsFile) -> None:
    path = backends_file(f"backends:\n  a: {{{SMALL}, base_url: '${{ADA}}'}}\n")
    (mistake,) = refuse(BACKENDS_CONFIG_PATH=path, ADA="")
    assert "set ADA in the environment" in mistake.message


def test_a_limit_of_what_a_class_does_not_do_gets_a_warning(load: Load, backends_file: BackendsFile) -> None:
    path = backends_file(f"backends:\n  a: {{{SMALL}, concurrency_limits: {{tts: 2}}}}\n")
    assert any("limits what the class does not do" in warning for warning in load(BACKENDS_CONFIG_PATH=path).warnings)


# Aliases


def test_aliases_and_merges_are_understood(load: Load, backends_file: BackendsFile) -> None:
    path = backends_file("""
backends:
  a: &a
    provider: ollama
    supported_capabilities: &able [chat, embeddings]
    description: first
  b: {<<: *a, description: second}
  c: {<<: [{description: third}, *a], supported_capabilities: *able}
""")
    classes = load(BACKENDS_CONFIG_PATH=path).backends.classes
    assert [item.description for item in classes.values()] == ["first", "second", "third"]
    assert {item.capabilities for item in classes.values()} == {frozenset({"chat", "embeddings"})}


def test_a_mistake_behind_an_alias_is_where_the_alias_is_used(refuse: Refuse, backends_file: BackendsFile) -> None:
    path = backends_file(f"backends:\n  a: {{{SMALL}, description: &x text}}\n  b: {{{SMALL}, required: *x}}\n")
    (mistake,) = refuse(BACKENDS_CONFIG_PATH=path)
    assert mistake.where == f"{path}:3: backends.b.required"


@pytest.mark.parametrize(
    "text",
    [
        "backends: &a {<<: *a}\n",
        "backends: &a\n  b: {<<: &c {<<: *a}}\n  <<: *c\n",
        "a0: &a0 {k: 1}\n" + "".join(f"a{n}: &a{n} {{<<: *a{n - 1}}}\n" for n in range(1, 2000)) + "<<: *a1999\n",
        "a0: &a0 {k: 1}\n"
        + "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}\n" for n in range(1, 12))
        + "<<: *a11\n",
    ],
)
def test_aliases_that_multiply_are_refused(refuse: Refuse, backends_file: BackendsFile, text: str) -> None:
    (mistake,) = refuse(BACKENDS_CONFIG_PATH=backends_file(text))
    assert "merges" in mistake.message


@pytest.mark.parametrize("text", ["backends: &a [*a]\n", "backends: &a {b: *a}\n"])
def test_an_alias_of_itself_is_only_a_wrong_value(refuse: Refuse, backends_file: BackendsFile, text: str) -> None:
    (mistake,) = refuse(BACKENDS_CONFIG_PATH=backends_file(text))
    assert "must be" in mistake.message or "is unknown" in mistake.message


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.getcwd []", "!!python/name:os.system x", "!x y"])
def test_a_tag_runs_nothing(refuse: Refuse, backends_file: BackendsFile, tag: str) -> None:
    (mistake,) = refuse(BACKENDS_CONFIG_PATH=backends_file(f"backends:\n  a: {{{SMALL}, description: {tag}}}\n"))
    assert "must be text" in mistake.message


# Any text


@settings(deadline=None)  # two shared cores
@given(
    st.lists(st.tuples(st.from_regex(r"[a-z]{1,8}", fullmatch=True), st.integers(0, 3)), unique_by=lambda item: item[0])
)
def test_a_value_knows_its_line(names: list[tuple[str, int]]) -> None:
    lines = ["first:", "  - value"]
    wanted = {"first": 1}
    for name, comments in names:
        lines += ["# comment"] * comments + [f"k_{name}:", "  - value"]
        wanted[f"k_{name}"] = len(lines) - 1
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "marked.yaml"
        file.write_text("\n".join(lines))
        entries = load_marked_yaml(file, {}).mapping()
    assert {key: entry.line for key, entry in entries.items()} == wanted
    assert all(entry.items()[0].line == entry.line + 1 for entry in entries.values())


@settings(deadline=None)  # two shared cores
@given(st.text(max_size=100) | st.text("ab:{}[]&*-<>!'\"\n \t#$|", max_size=60))
def test_any_text_is_read_or_refused_in_one_line(text: str) -> None:
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "any.yaml"
        file.write_bytes(f"backends: {text}".encode("utf-8", "surrogatepass"))
        findings = Findings.none()
        backends = read_backends_file(file, {}, findings)
    assert backends.classes or findings.mistakes
    assert all("\n" not in str(mistake) for mistake in findings.mistakes)
