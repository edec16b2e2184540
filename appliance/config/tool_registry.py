"""Tool registry: the operator's own tools (contract 6), read strictly, each mistake with its JSON pointer."""

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from appliance.config.errors import Findings
from appliance.config.reading import Given
from appliance.protocol.canonical import sha256_hex
from appliance.protocol.errors import InvalidRequest
from appliance.protocol.strictjson import parse_object

MAX_REGISTRY_BYTES = 4 << 20
MAX_TIMEOUT_S = 86400.0
BUILTIN_TOOLS = frozenset(
    {
        "git", "http_fetch", "http_fetch_local", "models_refresh", "noop", "read_file", "shell", "system_info",
        "write_file",
    }
)  # fmt: skip

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")  # as OpenAI's API has functions' names
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_EXAMPLE = '{"name": "uptime", "version": "1", "parameters": {"type": "object"}, "exec": {"type": "subprocess", "argv": ["uptime"]}}'


@dataclass(frozen=True, slots=True)
class DeclaredTool:
    """A program that is offered as a tool. `argv[0]`: an absolute path, or a name to be found on the tools' PATH.

    `timeout_s` None: as `shell` has it. `cwd` None: an empty directory of the run's own.
    """

    name: str
    version: str
    description: str
    parameters: Mapping[str, Any] = field(repr=False)
    argv: tuple[str, ...]
    timeout_s: float | None = None
    cwd: Path | None = None


@dataclass(frozen=True, slots=True)
class ToolRegistry:
    """A registry file as it was read; `sha256` is of its bytes."""

    path: Path
    sha256: str
    tools: tuple[DeclaredTool, ...]


class _Mistake(ValueError):
    """`pointer`: RFC 6901, below the tool or the file."""

    def __init__(self, pointer: str, message: str) -> None:
        super().__init__(message)
        self.pointer = pointer


def read_tool_registry(given: Given, findings: Findings) -> ToolRegistry | None:
    """The registry of the settings; None where there is none, and where it was refused."""
    path, wanted = given.settings.tools_registry_path, given.settings.tools_registry_sha256
    if wanted and not _SHA256.fullmatch(wanted):
        findings.refuse(given.where("tools_registry_sha256"), "is no SHA-256: write the 64 hex digits of `sha256sum`")
        return None
    if path is None:
        if wanted:
            findings.refuse(given.where("tools_registry_sha256"), "has no file: set TOOLS_REGISTRY_PATH as well")
        return None
    registry = load_tool_registry(path, findings)
    if registry is not None and wanted and registry.sha256 != wanted.lower():
        findings.refuse(
            given.where("tools_registry_sha256"),
            f"is not that of {path}, which has {registry.sha256}: look at what changed, then write that",
        )
        return None
    return registry


def load_tool_registry(path: Path, findings: Findings) -> ToolRegistry | None:
    """Read a registry file; every tool that cannot be used is refused."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_REGISTRY_BYTES + 1)
    except OSError as error:
        findings.refuse(str(path), f"cannot be read ({error.strerror}): name a readable file in TOOLS_REGISTRY_PATH")
        return None
    try:
        entries = _read_entries(data)
    except _Mistake as mistake:
        findings.refuse(_where(path, mistake.pointer), str(mistake))
        return None
    tools: dict[str, DeclaredTool] = {}
    refused = False
    for index, raw in enumerate(entries):
        try:
            tool = _read_tool(raw, path.parent)
            _check_new(tool, tools)
            _check_schema(tool)
        except _Mistake as mistake:
            findings.refuse(_where(path, f"/tools/{index}{mistake.pointer}"), str(mistake))
            refused = True
            continue
        tools[tool.name] = tool
        for warning in _missing(tool):
            findings.warn(_where(path, f"/tools/{index}/exec"), warning)
    return None if refused else ToolRegistry(path, sha256_hex(data), tuple(tools[name] for name in sorted(tools)))


def _where(path: Path, pointer: str) -> str:
    return f"{path}: {pointer}" if pointer else str(path)


def _read_entries(data: bytes) -> list[Any]:
    if len(data) > MAX_REGISTRY_BYTES:
        raise _Mistake("", f"is larger than {MAX_REGISTRY_BYTES} bytes: write tools only")
    try:
        document = parse_object(data)
    except InvalidRequest as error:
        raise _Mistake("", error.message.replace("The request body is", "is", 1).rstrip(".")) from None
    _known(document, ("tools",), "", needed=("tools",))
    if not isinstance(document["tools"], list):
        raise _Mistake("/tools", f"must be a list: write [{_EXAMPLE}]")
    return document["tools"]


def _read_tool(raw: Any, base: Path) -> DeclaredTool:
    fields = _known(
        raw, ("name", "version", "description", "parameters", "exec"), "", ("name", "version", "parameters", "exec")
    )
    name = _text(fields, "name", "")
    if not _NAME.fullmatch(name):
        raise _Mistake("/name", "is no name: write up to 64 of A-Z a-z 0-9 _ -")
    if not isinstance(fields["parameters"], dict):
        raise _Mistake("/parameters", 'must be a JSON Schema: write {"type": "object", "properties": {...}}')
    program = _known(fields["exec"], ("type", "argv", "timeout_sec", "cwd"), "/exec", ("type", "argv"))
    if program["type"] != "subprocess":
        raise _Mistake("/exec/type", 'is unknown: write "subprocess"')
    return DeclaredTool(
        name=name,
        version=_text(fields, "version", "", longest=64),
        description=_text(fields, "description", "", longest=4096, shortest=0) if "description" in fields else "",
        parameters=fields["parameters"],
        argv=_read_argv(program["argv"], base),
        timeout_s=_read_timeout(program["timeout_sec"]) if "timeout_sec" in program else None,
        cwd=base / _text(program, "cwd", "/exec", longest=4096) if "cwd" in program else None,
    )


def _known(raw: Any, keys: tuple[str, ...], pointer: str, needed: Iterable[str]) -> Mapping[str, Any]:
    if not isinstance(raw, dict):
        raise _Mistake(pointer, f"must be an object: write {_EXAMPLE}")
    for key in raw:
        if key not in keys:
            near = difflib.get_close_matches(key, keys, n=1)
            raise _Mistake(
                pointer, f"{key[:60]!r} is unknown: write {near[0] if near else 'one of ' + ', '.join(keys)}"
            )
    for key in needed:
        if key not in raw:
            raise _Mistake(pointer, f"has no `{key}`: write it as in {_EXAMPLE}")
    return raw


def _text(fields: Mapping[str, Any], key: str, pointer: str, *, longest: int = 64, shortest: int = 1) -> str:
    value = fields[key]
    if isinstance(value, str) and shortest <= len(value) <= longest and "\0" not in value:
        return value
    raise _Mistake(f"{pointer}/{key}", f"must be text of {shortest} to {longest} characters, in quotes: write some")


def _read_argv(raw: Any, base: Path) -> tuple[str, ...]:
    """A program with a slash in its name lies where the registry lies, unless its path is absolute."""
    if not isinstance(raw, list) or not raw:
        raise _Mistake("/exec/argv", 'must be a list of words: write ["./my_tool.py", "--json"]')
    for index, word in enumerate(raw):
        if not isinstance(word, str) or "\0" in word or (index == 0 and not word):
            raise _Mistake(f"/exec/argv/{index}", "must be text: write it in quotes")
    first = str(base / raw[0]) if "/" in raw[0] else raw[0]
    return (first, *raw[1:])


def _read_timeout(raw: Any) -> float:
    if isinstance(raw, int | float) and not isinstance(raw, bool) and 0 < raw <= MAX_TIMEOUT_S:
        return float(raw)
    raise _Mistake("/exec/timeout_sec", f"must be a number above 0, to {MAX_TIMEOUT_S:g}: write seconds")


def _check_new(tool: DeclaredTool, tools: Mapping[str, DeclaredTool]) -> None:
    if tool.name in BUILTIN_TOOLS:
        raise _Mistake("/name", f"{tool.name} is a built-in tool: write another name")
    if tool.name in tools:
        raise _Mistake("/name", f"{tool.name} is there twice: write another name")


def _check_schema(tool: DeclaredTool) -> None:
    from appliance.config.tool_schemas import SchemaMistake, check_schema  # noqa: PLC0415 -- 0.1 s that few need

    try:
        check_schema(tool.parameters)
    except SchemaMistake as mistake:
        raise _Mistake(f"/parameters{mistake.pointer}", str(mistake)) from None


def _missing(tool: DeclaredTool) -> Iterable[str]:
    """What may still come, such as a disk that is not mounted yet: no reason not to start."""
    if "/" in tool.argv[0] and not Path(tool.argv[0]).is_file():
        yield f"{tool.argv[0]} is not there: {tool.name} fails until it is"
    if tool.cwd is not None and not tool.cwd.is_dir():
        yield f"{tool.cwd} is no directory: {tool.name} fails until it is"
