"""Aliases: what they may hold, every mistake with its place, and the ones that are built in."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.config.alias import Alias, AliasMistake, read_alias
from appliance.config.aliases import parse_aliases
from appliance.config.backends import embedded_backends
from appliance.config.settings import Settings
from tests.config.conftest import Load, Refuse

BACKENDS = embedded_backends(Settings())
LONG = {
    "backend": "local_mlx",
    "model": "qwen",
    "context_window": 32768,
    "tools": False,
    "max_tokens_cap": 512,
    "temperature_cap": 1,
}


def as_json(**aliases: Any) -> str:
    return json.dumps({"aliases": aliases})


def test_the_two_forms_of_an_alias_are_read(load: Load) -> None:
    aliases = load(MODEL_ALIASES_JSON=as_json(Coder="ollama:qwen2.5-coder:7b", long=LONG)).aliases
    assert aliases["coder"] == Alias("coder", "ollama", "qwen2.5-coder:7b")
    assert aliases["long"] == Alias(
        "long", "local_mlx", "qwen", context_window=32768, tools=False, max_tokens_cap=512, temperature_cap=1.0
    )


def test_null_says_nothing() -> None:
    raw = {"backend": "ollama", "model": "x", "tools": None, "temperature_cap": None}
    assert read_alias("a", raw, BACKENDS) == Alias("a", "ollama", "x")


@pytest.mark.parametrize("backend", ["mlx", "MLX", "local_mlx", " Local_MLX "])
def test_a_class_may_be_called_by_its_old_name(backend: str) -> None:
    assert read_alias("a", {"backend": backend, "model": "x"}, BACKENDS).backend_class == "local_mlx"
    assert read_alias("a", f"{backend}:x", BACKENDS).backend_class == "local_mlx"


def test_default_and_fast_are_built_in(load: Load) -> None:
    assert load().aliases == {
        "default": Alias("default", "ollama", "qwen2.5:32b"),
        "fast": Alias("fast", "ollama", "qwen2.5:7b"),
    }
    models = {"OLLAMA_MODEL_STRONG": "big", "OLLAMA_MODEL_FAST": "small"}
    assert load(models).aliases["default"].model == "big"
    assert load(models).aliases["fast"].model == "small"
    assert load(DEFAULT_BACKEND="mlx", MLX_MODEL_FAST="small").aliases["fast"] == Alias("fast", "local_mlx", "small")


def test_the_operators_own_default_counts(load: Load) -> None:
    aliases = load(MODEL_ALIASES_JSON=as_json(Default="mlx:mine")).aliases
    assert aliases["default"] == Alias("default", "local_mlx", "mine")
    assert aliases["fast"].model == "qwen2.5:7b"


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("{", "is no JSON at line 1 column 2"),
        ("", None),
        ("[]", "has no `aliases`"),
        ("{}", "has no `aliases`"),
        ('{"alias": {}}', "has no `aliases`"),
        ('{"aliases": [1]}', "`aliases` must be an object"),
        ('{"aliases": {}, "more": 1}', "'more' is unknown"),
        ('{"aliases": {"a": "ollama:x", "a": "ollama:y"}}', "'a' is there twice"),
        ('{"aliases": {"a": NaN}}', "holds NaN"),
        ('{"aliases": {"a": 1234567890123456}}', "more than 15 digits"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_text_that_is_no_table_of_aliases_is_refused(load: Load, refuse: Refuse, text: str, what: str | None) -> None:
    if what is None:
        assert set(load(MODEL_ALIASES_JSON=text).aliases) == {"default", "fast"}
        return
    (mistake,) = refuse(MODEL_ALIASES_JSON=text)
    assert mistake.where == "MODEL_ALIASES_JSON"
    assert what in mistake.message


@pytest.mark.parametrize(
    ("name", "raw", "what"),
    [
        ("a", "ollama", 'must be "<class>:<model>"'),
        ("a", "ollama:", 'must be "<class>:<model>"'),
        ("a", ":x", 'must be "<class>:<model>"'),
        ("a", "olama:x", "'olama' is no backend class: write ollama"),
        ("a", "cloud:x", "is no backend class: write one of ollama, local_mlx, gpu_heavy"),
        ("a", 7, "must be text or an object"),
        ("a", None, "must be text or an object"),
        ("a", {}, "has no `backend`"),
        ("a", {"backend": "ollama"}, "has no `model`"),
        ("a", {"backend": "ollama", "model": ""}, "`model` must be text"),
        ("a", {"backend": "ollama", "model": "x\ny"}, "`model` must be text"),
        ("a", {"backend": 1, "model": "x"}, "`backend` must be text"),
        ("a", {**LONG, "modle": "x"}, "'modle' is unknown: write model"),
        ("a", {**LONG, "zzz": "x"}, "'zzz' is unknown: write one of backend, model"),
        ("a", {**LONG, "tools": "no"}, "`tools` must be true or false"),
        ("a", {**LONG, "context_window": 0}, "`context_window` must be a whole number"),
        ("a", {**LONG, "context_window": 1.5}, "`context_window` must be a whole number"),
        ("a", {**LONG, "max_tokens_cap": True}, "`max_tokens_cap` must be a whole number"),
        ("a", {**LONG, "max_tokens_cap": 100_000_001}, "from 1 to 100000000"),
        ("a", {**LONG, "temperature_cap": 2.1}, "`temperature_cap` must be a number from 0 to 2"),
        ("a", {**LONG, "temperature_cap": "1"}, "`temperature_cap` must be a number from 0 to 2"),
        ("auto", "ollama:x", "is the router's own word"),
        ("AUTO", "ollama:x", "is the router's own word"),
        ("ollama", "mlx:x", "is the name of a backend class, and leads to local_mlx"),
        ("mlx", "ollama:x", "is the name of a backend class, and leads to ollama"),
        ("a b", "ollama:x", "is no name"),
        ("é", "ollama:x", "is no name"),
        ("", "ollama:x", "is no name"),
    ],
)
def test_a_bad_alias_is_named_with_what_to_write(refuse: Refuse, name: str, raw: object, what: str) -> None:
    (mistake,) = refuse(MODEL_ALIASES_JSON=as_json(good="ollama:x", **{name: raw}))
    assert mistake.where.startswith("MODEL_ALIASES_JSON: aliases.")
    assert what in mistake.message


def test_every_bad_alias_is_named_at_once(refuse: Refuse) -> None:
    mistakes = refuse(MODEL_ALIASES_JSON=as_json(a="x", b="ollama:good", c=1, B="ollama:again"))
    assert [mistake.where.rpartition(".")[2] for mistake in mistakes] == ["a", "c", "B"]
    assert "in other capitals" in mistakes[2].message


def test_an_alias_may_have_the_name_of_its_own_class(load: Load) -> None:
    aliases = load(MODEL_ALIASES_JSON=as_json(ollama="ollama:x", mlx="local_mlx:y")).aliases
    assert (aliases["ollama"].model, aliases["mlx"].model) == ("x", "y")


def test_the_file_is_found_in_etc_and_the_variable_wins(load: Load, etc: Path, tmp_path: Path) -> None:
    (etc / "model_aliases.json").write_text(as_json(a="ollama:found"))
    (tmp_path / "named.json").write_text("\ufeff" + as_json(a="ollama:named"))
    found = load()
    assert found.aliases["a"].model == "found"
    assert found.origins["model_aliases_path"] == f"found in {etc}"
    named = str(tmp_path / "named.json")
    assert load(MODEL_ALIASES_PATH=named).aliases["a"].model == "named"
    both = load(MODEL_ALIASES_PATH=named, MODEL_ALIASES_JSON=as_json(b="ollama:json")).aliases
    assert both["b"].model == "json"
    assert "a" not in both


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (None, "cannot be read (No such file"),
        (b"\xff", "is not UTF-8"),
        (b" " * 1_000_001, "is larger than"),
        (b"", "is no JSON"),
        (b'{"aliases": {"a": "ollama:"}}', "must be"),
    ],
)
def test_a_bad_file_is_named(refuse: Refuse, tmp_path: Path, content: bytes | None, what: str) -> None:
    path = tmp_path / "aliases.json"
    if content is not None:
        path.write_bytes(content)
    (mistake,) = refuse(MODEL_ALIASES_PATH=str(path))
    assert mistake.where.startswith(str(path))
    assert what in mistake.message


@settings(deadline=None)  # two shared cores
@given(st.text(max_size=40) | st.recursive(st.none() | st.integers() | st.text(max_size=5), st.lists).map(json.dumps))
def test_any_text_is_a_table_or_refused_in_one_line(text: str) -> None:
    try:
        entries = parse_aliases(text)
    except AliasMistake as mistake:
        assert "write" in str(mistake)  # noqa: PT017 -- most texts are refused, a few are not
    else:
        assert isinstance(entries, dict)


@settings(deadline=None)  # two shared cores
@given(
    st.text(max_size=20),
    st.text(max_size=20)
    | st.fixed_dictionaries(
        {},
        optional={
            name: st.none() | st.booleans() | st.integers(-1, 3) | st.floats() | st.sampled_from(["ollama", "x", ""])
            for name in [*LONG, "other"]
        },
    ),
)
def test_any_alias_is_read_within_its_bounds_or_refused(name: str, raw: object) -> None:
    try:
        alias = read_alias(name, raw, BACKENDS)
    except AliasMistake:
        return
    assert alias.name == name.lower()
    assert alias.backend_class in BACKENDS.classes
    assert alias.model.strip()
    assert alias.max_tokens_cap is None or alias.max_tokens_cap >= 1
    assert alias.temperature_cap is None or 0 <= alias.temperature_cap <= 2
