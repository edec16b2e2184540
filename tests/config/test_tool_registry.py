"""Tool registry: what a declaration may hold, and every mistake with its place and what to write."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.config.errors import Findings
from appliance.config.tool_registry import BUILTIN_TOOLS, DeclaredTool, load_tool_registry
from appliance.config.tool_schemas import SchemaMistake, check_schema, validator_of
from tests.config.conftest import Load, Refuse

SCHEMA = {"type": "object", "properties": {"day": {"type": "string"}}, "additionalProperties": False}
TOOL: dict[str, Any] = {
    "name": "weather",
    "version": "2",
    "description": "The weather.",
    "parameters": SCHEMA,
    "exec": {"type": "subprocess", "argv": ["weather", "--json"], "timeout_sec": 2.5, "cwd": "/"},
}


def without(key: str) -> dict[str, Any]:
    return {name: value for name, value in TOOL.items() if name != key}


def with_exec(**fields: Any) -> dict[str, Any]:
    program = {**TOOL["exec"], **fields}
    return {**TOOL, "exec": {key: value for key, value in program.items() if value is not ...}}


@pytest.fixture
def registry(tmp_path: Path) -> Path:
    return tmp_path / "tools.json"


def write(path: Path, *tools: Any, **more: Any) -> str:
    path.write_text(json.dumps({"tools": list(tools), **more}))
    return str(path)


def test_a_tool_is_read(load: Load, registry: Path) -> None:
    found = load(TOOLS_REGISTRY_PATH=write(registry, TOOL)).tool_registry
    assert found is not None
    assert found.path == registry
    assert found.sha256 == hashlib.sha256(registry.read_bytes()).hexdigest()
    assert found.tools == (
        DeclaredTool("weather", "2", "The weather.", SCHEMA, ("weather", "--json"), timeout_s=2.5, cwd=Path("/")),
    )


def test_description_timeout_and_directory_may_be_left_out(load: Load, registry: Path) -> None:
    bare = {**without("description"), "exec": {"type": "subprocess", "argv": ["x"]}}
    found = load(TOOLS_REGISTRY_PATH=write(registry, bare)).tool_registry
    assert found is not None
    assert (found.tools[0].description, found.tools[0].timeout_s, found.tools[0].cwd) == ("", None, None)


def test_tools_are_sorted_by_name(load: Load, registry: Path) -> None:
    tools = [{**TOOL, "name": name} for name in ("b", "A", "a")]
    found = load(TOOLS_REGISTRY_PATH=write(registry, *tools)).tool_registry
    assert found is not None
    assert [tool.name for tool in found.tools] == ["A", "a", "b"]


def test_relative_paths_start_where_the_registry_lies(load: Load, registry: Path) -> None:
    (registry.parent / "own").mkdir()
    (registry.parent / "own" / "tool").touch()
    loaded = load(TOOLS_REGISTRY_PATH=write(registry, with_exec(argv=["own/tool", "./x"], cwd="own")))
    assert loaded.tool_registry is not None
    assert loaded.tool_registry.tools[0].argv == (str(registry.parent / "own" / "tool"), "./x")
    assert loaded.tool_registry.tools[0].cwd == registry.parent / "own"
    assert loaded.warnings == ()


def test_a_program_that_is_not_there_yet_is_a_warning(load: Load, registry: Path) -> None:
    loaded = load(TOOLS_REGISTRY_PATH=write(registry, with_exec(argv=["./later"], cwd="later")))
    assert [warning.partition(" is ")[0] for warning in loaded.warnings] == [
        f"{registry}: /tools/0/exec: {registry.parent / 'later'}"
    ] * 2


def test_without_a_file_there_is_no_registry(load: Load) -> None:
    assert load().tool_registry is None


def test_the_file_is_found_in_etc(load: Load, etc: Path) -> None:
    write(etc / "tools_registry.json", TOOL)
    assert load().tool_registry is not None


def test_the_hash_must_be_the_files(load: Load, refuse: Refuse, registry: Path) -> None:
    path = write(registry, TOOL)
    right = hashlib.sha256(registry.read_bytes()).hexdigest()
    assert load(TOOLS_REGISTRY_PATH=path, TOOLS_REGISTRY_SHA256=right.upper()).tool_registry is not None
    (mistake,) = refuse(TOOLS_REGISTRY_PATH=path, TOOLS_REGISTRY_SHA256="0" * 64)
    assert mistake.where == "TOOLS_REGISTRY_SHA256"
    assert right in mistake.message


@pytest.mark.parametrize(("text", "what"), [("abc", "is no SHA-256"), ("0" * 64, "TOOLS_REGISTRY_PATH")])
def test_a_hash_without_a_file_or_that_is_none_is_refused(refuse: Refuse, text: str, what: str) -> None:
    (mistake,) = refuse(TOOLS_REGISTRY_SHA256=text)
    assert mistake.where == "TOOLS_REGISTRY_SHA256"
    assert what in mistake.message


@pytest.mark.parametrize(
    ("content", "pointer", "what"),
    [
        (None, "", "cannot be read (No such file"),
        (b"", "", "is not valid JSON"),
        (b'{"tools": [}', "", "line 1 column 12"),
        (b"\xff", "", "not UTF-8"),
        (b" " * (4 * 1024 * 1024 + 1), "", "is larger than"),
        (b"[]", "", "one JSON object"),
        (b"{}", "", "has no `tools`"),
        (b'{"tools": {}}', "/tools", "must be a list"),
        (b'{"tool": []}', "", "'tool' is unknown: write tools"),
        (b'{"tools": [], "more": 1}', "", "'more' is unknown"),
        (b'{"tools": [], "tools": []}', "", "occurs twice"),
    ],
)
def test_a_file_that_is_no_registry_is_refused(
    refuse: Refuse, registry: Path, content: bytes | None, pointer: str, what: str
) -> None:
    if content is not None:
        registry.write_bytes(content)
    (mistake,) = refuse(TOOLS_REGISTRY_PATH=str(registry))
    assert mistake.where == (f"{registry}: {pointer}" if pointer else str(registry))
    assert what in mistake.message


@pytest.mark.parametrize(
    ("tool", "pointer", "what"),
    [
        (7, "", "must be an object"),
        ({}, "", "has no `name`"),
        (without("name"), "", "has no `name`"),
        (without("version"), "", "has no `version`"),
        (without("parameters"), "", "has no `parameters`"),
        (without("exec"), "", "has no `exec`"),
        ({**TOOL, "verson": "1"}, "", "'verson' is unknown: write version"),
        ({**TOOL, "name": ""}, "/name", "must be text"),
        ({**TOOL, "name": "a b"}, "/name", "is no name"),
        ({**TOOL, "name": "é"}, "/name", "is no name"),
        ({**TOOL, "name": "a\n"}, "/name", "is no name"),
        ({**TOOL, "name": "a" * 65}, "/name", "1 to 64 characters"),
        ({**TOOL, "name": 7}, "/name", "must be text"),
        *[({**TOOL, "name": name}, "/name", "is a built-in tool") for name in sorted(BUILTIN_TOOLS)],
        ({**TOOL, "version": 1}, "/version", "must be text"),
        ({**TOOL, "version": ""}, "/version", "must be text"),
        ({**TOOL, "description": None}, "/description", "must be text"),
        ({**TOOL, "parameters": True}, "/parameters", "must be a JSON Schema"),
        ({**TOOL, "parameters": []}, "/parameters", "must be a JSON Schema"),
        ({**TOOL, "parameters": {"type": "objekt"}}, "/parameters/type", "is no JSON Schema"),
        ({**TOOL, "exec": "x"}, "/exec", "must be an object"),
        (with_exec(type=...), "/exec", "has no `type`"),
        (with_exec(argv=...), "/exec", "has no `argv`"),
        (with_exec(type="shell"), "/exec/type", 'write "subprocess"'),
        (with_exec(timeout=3), "/exec", "'timeout' is unknown: write timeout_sec"),
        (with_exec(argv="ls"), "/exec/argv", "must be a list"),
        (with_exec(argv=[]), "/exec/argv", "must be a list"),
        (with_exec(argv=[""]), "/exec/argv/0", "must be text"),
        (with_exec(argv=["a", 1]), "/exec/argv/1", "must be text"),
        (with_exec(argv=["a", "b\0"]), "/exec/argv/1", "must be text"),
        (with_exec(timeout_sec=0), "/exec/timeout_sec", "above 0"),
        (with_exec(timeout_sec=-1), "/exec/timeout_sec", "above 0"),
        (with_exec(timeout_sec=True), "/exec/timeout_sec", "must be a number"),
        (with_exec(timeout_sec="3"), "/exec/timeout_sec", "must be a number"),
        (with_exec(timeout_sec=86401), "/exec/timeout_sec", "86400"),
        (with_exec(cwd=1), "/exec/cwd", "must be text"),
        (with_exec(cwd=""), "/exec/cwd", "must be text"),
    ],
)
def test_a_bad_tool_is_named_with_its_pointer(
    refuse: Refuse, registry: Path, tool: Any, pointer: str, what: str
) -> None:
    (mistake,) = refuse(TOOLS_REGISTRY_PATH=write(registry, {**TOOL, "name": "good"}, tool))
    assert mistake.where == f"{registry}: /tools/1{pointer}"
    assert what in mistake.message
    assert "write" in mistake.message or "correct" in mistake.message


def test_every_bad_tool_is_named_at_once(refuse: Refuse, registry: Path) -> None:
    mistakes = refuse(TOOLS_REGISTRY_PATH=write(registry, TOOL, 1, TOOL, {**TOOL, "name": "shell"}))
    assert [mistake.where.rpartition(": ")[2] for mistake in mistakes] == ["/tools/1", "/tools/2/name", "/tools/3/name"]
    assert "is there twice" in mistakes[1].message


GOOD_SCHEMAS: list[dict[str, Any]] = [
    {},
    {"type": "object"},
    {"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object"},
    {"$id": "https://a.test/b", "$ref": "#/$defs/a", "$defs": {"a": {"type": "object"}}},
    {"properties": {"a": {"$ref": "#/$defs/tree"}}, "$defs": {"tree": {"items": {"$ref": "#/$defs/tree"}}}},
    {"properties": {"a": {"$ref": "#x"}}, "$defs": {"a": {"$anchor": "x"}}},
    {"additionalProperties": {"$ref": "#"}},
    {"properties": {"$ref": {"type": "string"}, "$id": {"type": "string"}}},
    {"properties": {"a": {"const": {"$ref": "http://a.test/"}}}},
    {"properties": {"a": {"default": {"$id": "x"}, "examples": [{"$ref": "y"}], "enum": [{"$ref": "z"}]}}},
]
BAD_SCHEMAS: list[tuple[dict[str, Any], str, str]] = [
    ({"type": "objekt"}, "/type", "is no JSON Schema"),
    ({"type": "string"}, "/type", 'must be "object"'),
    ({"type": ["object", "null"]}, "/type", 'must be "object"'),
    ({"required": "a"}, "/required", "is no JSON Schema"),
    ({"properties": {"a": {"minimum": "1"}}}, "/properties/a/minimum", "is not of type 'number'"),
    ({"properties": {"a": {"pattern": "("}}}, "/properties/a/pattern", "is not a 'regex'"),
    ({"patternProperties": {"(": {}}}, "/patternProperties", "is not a 'regex'"),
    ({"$schema": "http://json-schema.org/draft-07/schema#"}, "/$schema", "another dialect"),
    ({"$schema": 1}, "/$schema", "another dialect"),
    ({"$ref": "http://a.test/schema"}, "/$ref", "nothing is fetched"),
    ({"properties": {"a/b": {"$ref": "file:///etc/passwd"}}}, "/properties/a~1b/$ref", "nothing is fetched"),
    ({"properties": {"a": {"$ref": "other.json"}}}, "/properties/a/$ref", "nothing is fetched"),
    ({"$defs": {"default": {"$ref": "other.json"}}}, "/$defs/default/$ref", "nothing is fetched"),
    ({"properties": {"a": {"$dynamicRef": "b#c"}}}, "/properties/a/$dynamicRef", "nothing is fetched"),
    ({"properties": {"a": {"$ref": "#/$defs/b"}}}, "/properties/a/$ref", "is not in this schema"),
    ({"properties": {"a": {"$ref": "#nowhere"}}}, "/properties/a/$ref", "is not in this schema"),
    ({"$defs": {"a": {"$id": "b"}}}, "/$defs/a/$id", "a name of its own"),
    ({"$ref": "#"}, "", "without end"),
]  # fmt: skip


@pytest.mark.parametrize("schema", GOOD_SCHEMAS)
def test_a_schema_that_needs_nothing_but_itself_is_taken(schema: dict[str, Any]) -> None:
    check_schema(schema)


@pytest.mark.parametrize(("schema", "pointer", "what"), BAD_SCHEMAS)
def test_a_schema_that_is_none_or_leads_outside_is_refused(schema: dict[str, Any], pointer: str, what: str) -> None:
    with pytest.raises(SchemaMistake) as caught:
        check_schema(schema)
    assert caught.value.pointer == pointer
    assert what in str(caught.value)


def test_a_validator_fetches_nothing_even_where_a_check_was_left_out() -> None:
    with pytest.raises(Exception, match="Unresolvable"):
        validator_of({"$ref": "http://127.0.0.1:9/schema"}).is_valid({})


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 2)
    | st.sampled_from(["", "x", "object", "subprocess", "#", "http://a"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["tools", "name", "version", "parameters", "exec", "type", "argv", "$ref", "properties", "x"]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)


@settings(deadline=None)
@given(JSON)
def test_any_json_is_a_registry_or_refused_in_one_line(tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_text(json.dumps(value))
    findings = Findings.none()
    found = load_tool_registry(path, findings)
    assert (found is None) == bool(findings.mistakes)
    assert all("\n" not in str(mistake) for mistake in findings.mistakes)


def test_the_schema_library_is_loaded_only_for_a_registry(registry: Path) -> None:
    script = (
        "import sys, os; from pathlib import Path\n"
        "from appliance.config.loading import load_configuration\n"
        "load_configuration(dict(os.environ), etc=Path('/nonexistent'))\n"
        "print('jsonschema' in sys.modules)"
    )
    environ = {"HOME": str(registry.parent), "APPLIANCE_ENV_FILE": ""}
    for more, loaded in (({}, "False"), ({"TOOLS_REGISTRY_PATH": write(registry, TOOL)}, "True")):
        said = subprocess.run(
            [sys.executable, "-c", script], env=environ | more, capture_output=True, text=True, check=False
        )
        assert said.stdout.strip() == loaded, said.stderr
