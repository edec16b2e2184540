"""ComfyUI workflows of the operator's own: graphs in API format, and which of their inputs mean what. docs/comfyui.md."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from appliance.protocol.errors import InvalidRequest
from appliance.protocol.strictjson import parse_object

MAX_FILE_BYTES = 4 << 20

InputName = Literal[
    "prompt",
    "negative",
    "seed",
    "width",
    "height",
    "latent_width",
    "latent_height",
    "steps",
    "cfg",
    "sampler",
    "scheduler",
    "model",
    "batch",
    "image",
    "mask",
    "strength",
]
INPUT_NAMES: tuple[InputName, ...] = get_args(InputName)

_SECTIONS = ("generate", "edit")
_FIELDS = frozenset({"workflow", "inputs", "output"})
_NEEDED: Mapping[str, tuple[InputName, ...]] = {"generate": ("prompt",), "edit": ("prompt", "image")}


class WorkflowError(ValueError):
    """A file that cannot be used: which, the place in it as a JSON pointer (RFC 6901), and what to change."""


@dataclass(frozen=True, slots=True)
class Target:
    """One input of one node."""

    node: str
    input: str


@dataclass(frozen=True, slots=True)
class Workflow:
    """A graph in API format, never changed, and where a request's values go. `output`: whose pictures count."""

    graph: Mapping[str, Any]
    inputs: Mapping[InputName, tuple[Target, ...]]
    output: str | None = None


@dataclass(frozen=True, slots=True)
class Workflows:
    """What draws from nothing and what changes a picture; None: the graph that is shipped."""

    generate: Workflow | None = None
    edit: Workflow | None = None


def load_workflows(path: Path) -> Workflows:
    """Read the file, and the graphs it names beside it. Raises WorkflowError."""
    top = _read(path)
    unknown = sorted(top.keys() - set(_SECTIONS))
    if unknown or not top:
        raise WorkflowError(f"{path}: {_pointer(*unknown[:1])} is none of {' and '.join(_SECTIONS)}, and one is needed")
    sections = {name: _section(path, name, top[name]) for name in _SECTIONS if name in top}
    return Workflows(sections.get("generate"), sections.get("edit"))


def _section(path: Path, name: str, given: Any) -> Workflow:
    section = _object(path, given, name)
    for field in section.keys() - _FIELDS:
        raise WorkflowError(f"{path}: {_pointer(name, field)} is none of {', '.join(sorted(_FIELDS))}")
    graph = _graph(path, name, section.get("workflow"))
    inputs = _object(path, section.get("inputs"), name, "inputs")
    targets = {
        _input_name(path, name, key): _targets(path, (name, "inputs", key), value, graph)
        for key, value in inputs.items()
    }
    for needed in _NEEDED[name]:
        if needed not in targets:
            raise WorkflowError(f"{path}: {_pointer(name, 'inputs')} names no input for {needed}")
    output = section.get("output")
    if output is not None and output not in graph:
        raise WorkflowError(f"{path}: {_pointer(name, 'output')} is no node of the workflow")
    return Workflow(graph, targets, output)


def _graph(path: Path, section: str, given: Any) -> dict[str, Any]:
    """The graph itself, or the name of a file beside this one."""
    where = path
    place: tuple[str, ...] = (section, "workflow")
    if isinstance(given, str):
        where, place = path.parent / given, ()
        given = _read(where)
    graph = _object(where, given, *place)
    if isinstance(graph.get("nodes"), list):
        raise WorkflowError(f"{where}: {_pointer(*place)} is what ComfyUI saves for itself: export it in API format")
    for node, value in graph.items():
        inner = _object(where, value, *place, node)
        if not isinstance(inner.get("class_type"), str):
            raise WorkflowError(f"{where}: {_pointer(*place, node, 'class_type')} is no name of a class")
        _object(where, inner.get("inputs"), *place, node, "inputs")
    if not graph:
        raise WorkflowError(f"{where}: {_pointer(*place)} has no nodes")
    return graph


def _input_name(path: Path, section: str, key: str) -> InputName:
    for name in INPUT_NAMES:
        if name == key:
            return name
    raise WorkflowError(f"{path}: {_pointer(section, 'inputs', key)} is none of {', '.join(INPUT_NAMES)}")


def _targets(path: Path, place: tuple[str, ...], given: Any, graph: Mapping[str, Any]) -> tuple[Target, ...]:
    """`"6.text"`, or a list of such: the node, a point, its input."""
    listed = given if isinstance(given, list) else [given]
    found = []
    for one in listed:
        node, point, name = one.partition(".") if isinstance(one, str) else ("", "", "")
        if not point:
            raise WorkflowError(f'{path}: {_pointer(*place)} must be "<node>.<input>", or a list of such')
        if node not in graph:
            raise WorkflowError(f"{path}: {_pointer(*place)} names node {node}, which the workflow does not have")
        if name not in graph[node]["inputs"]:
            has = ", ".join(graph[node]["inputs"]) or "none"
            kind = graph[node]["class_type"]
            raise WorkflowError(f"{path}: {_pointer(*place)}: node {node} ({kind}) has no input {name}, it has {has}")
        found.append(Target(node, name))
    if not found:
        raise WorkflowError(f"{path}: {_pointer(*place)} is empty: leave it out")
    return tuple(found)


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a name with a null byte
        reason = error.strerror if isinstance(error, OSError) else "it is no name of a file"
        raise WorkflowError(f"{path} cannot be read ({reason})") from None
    if len(data) > MAX_FILE_BYTES:
        raise WorkflowError(f"{path} is larger than {MAX_FILE_BYTES} bytes")
    try:
        return parse_object(data)
    except InvalidRequest as error:
        raise WorkflowError(f"{path}: {error.message.replace('The request body', 'the file', 1)}") from None


def _object(path: Path, value: Any, *place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise WorkflowError(f"{path}: {_pointer(*place)} must be an object")
    return value


def _pointer(*place: str) -> str:
    return "".join("/" + part.replace("~", "~0").replace("/", "~1") for part in place) or "the whole"
