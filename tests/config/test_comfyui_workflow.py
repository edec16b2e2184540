"""The operator's ComfyUI workflows: read with their places checked, refused with file, pointer and what to write."""

import json
from pathlib import Path
from typing import Any

import pytest

from appliance.config.comfyui_workflow import Target, WorkflowError, load_workflows
from tests.config.conftest import Load, Refuse

GRAPH = {
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "", "clip": ["4", 1]}},
    "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 8, "height": 8, "batch_size": 1}},
    "9": {"class_type": "SaveImage", "inputs": {"images": ["8", 0]}},
}
GENERATE = {"workflow": GRAPH, "inputs": {"prompt": "6.text", "width": ["5.width"]}, "output": "9"}


def write(tmp_path: Path, value: Any, name: str = "comfyui.json") -> Path:
    path = tmp_path / name
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def test_a_graph_in_the_file_and_one_beside_it_are_the_same(tmp_path: Path) -> None:
    write(tmp_path, GRAPH, "graph.json")
    here = load_workflows(write(tmp_path, {"generate": GENERATE}))
    beside = load_workflows(write(tmp_path, {"generate": {**GENERATE, "workflow": "graph.json"}}))
    assert here == beside
    assert here.generate is not None
    assert here.generate.inputs == {"prompt": (Target("6", "text"),), "width": (Target("5", "width"),)}
    assert here.generate.output == "9"
    assert here.edit is None


def test_every_class_of_the_provider_draws_with_it(load: Load, tmp_path: Path) -> None:
    path = write(tmp_path, {"generate": GENERATE})
    configuration = load(IMAGES_BACKEND="http_comfyui", IMAGES_COMFYUI_WORKFLOW=str(path))
    assert configuration.backends.classes["gpu_heavy"].workflows.generate is not None
    assert configuration.backends.classes["ollama"].workflows.generate is None
    assert configuration.warnings == ()


def test_a_workflow_that_nobody_draws_with_gets_a_warning(load: Load, tmp_path: Path) -> None:
    (warning,) = load(IMAGES_COMFYUI_WORKFLOW=str(write(tmp_path, {"generate": GENERATE}))).warnings
    assert warning.startswith("IMAGES_COMFYUI_WORKFLOW: is not used")


def test_a_bad_file_stops_the_start_naming_setting_and_place(refuse: Refuse, tmp_path: Path) -> None:
    path = write(tmp_path, {"generate": {**GENERATE, "inputs": {"prompt": "7.text"}}})
    (mistake,) = refuse(IMAGES_BACKEND="http_comfyui", IMAGES_COMFYUI_WORKFLOW=str(path))
    assert mistake.where == "IMAGES_COMFYUI_WORKFLOW"
    assert f"{path}: /generate/inputs/prompt names node 7, which the workflow does not have" in mistake.message


def inputs(**changes: Any) -> Any:
    return {"generate": {**GENERATE, "inputs": {"prompt": "6.text", **changes}}}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("{", "the file"),
        ('{"generate": 1, "generate": 2}', "generate"),
        ({}, "one is needed"),
        ({"paint": {}}, "/paint is none of generate and edit"),
        ({"generate": []}, "/generate must be an object"),
        ({"generate": {**GENERATE, "more": 1}}, "/generate/more is none of inputs, output, workflow"),
        ({"generate": {"workflow": GRAPH}}, "/generate/inputs must be an object"),
        (
            {"generate": {"workflow": GRAPH, "inputs": {"seed": "5.width"}}},
            "/generate/inputs names no input for prompt",
        ),
        ({"edit": GENERATE}, "/edit/inputs names no input for image"),
        ({"generate": {**GENERATE, "output": "1"}}, "/generate/output is no node"),
        ({"generate": {**GENERATE, "workflow": {}}}, "/generate/workflow has no nodes"),
        ({"generate": {**GENERATE, "workflow": {"nodes": [], "links": []}}}, "export it in API format"),
        ({"generate": {**GENERATE, "workflow": {"a/b": 1}}}, "/generate/workflow/a~1b must be an object"),
        ({"generate": {**GENERATE, "workflow": {"1": {"inputs": {}}}}}, "/generate/workflow/1/class_type is no name"),
        ({"generate": {**GENERATE, "workflow": {"1": {"class_type": "A"}}}}, "/generate/workflow/1/inputs must be"),
        ({"generate": {**GENERATE, "workflow": "missing.json"}}, "missing.json cannot be read (No such file"),
        ({"generate": {**GENERATE, "workflow": "a\0b"}}, "it is no name of a file"),
        (inputs(colour="5.width"), "/generate/inputs/colour is none of prompt, negative,"),
        (inputs(seed="5"), '/generate/inputs/seed must be "<node>.<input>"'),
        (inputs(seed=5), '/generate/inputs/seed must be "<node>.<input>"'),
        (inputs(seed=[]), "/generate/inputs/seed is empty"),
        (inputs(seed="5.seed"), "node 5 (EmptyLatentImage) has no input seed, it has width, height, batch_size"),
    ],
)
def test_every_mistake_is_told_with_its_place(tmp_path: Path, value: Any, words: str) -> None:
    path = write(tmp_path, value)
    with pytest.raises(WorkflowError) as caught:
        load_workflows(path)
    assert words in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_a_file_that_cannot_be_read_or_is_too_large_is_told(tmp_path: Path) -> None:
    with pytest.raises(WorkflowError, match="cannot be read"):
        load_workflows(tmp_path / "none.json")
    with pytest.raises(WorkflowError, match="larger than"):
        load_workflows(write(tmp_path, " " * (4 << 20) + "{}"))
