"""`docs/agents.md` names what there is: every field of a spec, every event and its fields, every error, every metric."""

import json
import re
from pathlib import Path

import pytest

from appliance.agents import step, transcript
from appliance.agents.runner import FAULT
from appliance.config.agent_specs import AgentSpec
from appliance.protocol.agents import VOLATILE
from appliance.telemetry.exposition import write_page
from appliance.telemetry.metrics import Metrics
from appliance.telemetry.readings import Readings
from tests.agents.support import ScriptedModel, call, make_head, run, said

DOCS = Path(__file__).parents[2] / "docs"
TEXT = (DOCS / "agents.md").read_text()
WORDS = set(re.findall(r"[a-z_0-9]+", TEXT))


@pytest.mark.parametrize("name", AgentSpec.model_fields)
def test_every_field_of_a_spec_has_its_row(name: str) -> None:
    assert re.search(rf"^\| .*`{name}`", TEXT, re.MULTILINE)


def test_every_end_of_a_run_is_explained() -> None:
    errors = (step.TURN_LIMIT, step.RUNTIME, step.TOOL_IO, step.TOOL_CALLS, step.INVALID_CALL, FAULT)
    for error in (*errors, transcript.CANCELLED, transcript.INTERRUPTED):
        assert f"`{error}`" in TEXT


async def test_every_field_of_every_event_is_named() -> None:
    model = ScriptedModel([said(), said("", call()), said(), said("done")])
    _, ended = await run(make_head(), model)
    _, failed = await run(make_head(max_turns=1), ScriptedModel([said(), said("", call())]))
    names = {name for event in (*ended, *failed) for name in event}
    assert names <= WORDS


def test_what_is_volatile_is_named() -> None:
    assert f"**Volatile** are `{' '.join(sorted(VOLATILE))}`" in re.sub(r"`[a-z_ ]+`", _sorted, TEXT)


def _sorted(match: re.Match[str]) -> str:
    return f"`{' '.join(sorted(match[0].strip('`').split()))}`"


def test_every_metric_of_agents_is_named() -> None:
    page = write_page(Metrics(version="0", routes=[], readings=Readings()).read())[0].decode()
    for name in re.findall(r"^# TYPE (gateway_agent_\w+)", page, re.MULTILINE):
        assert f"`{name}`" in TEXT or f"`_{name.rpartition('_')[2]}`" in TEXT


def test_the_example_uses_the_tool_that_the_other_example_declares() -> None:
    examples = json.loads((DOCS / "examples" / "agents.json").read_text())
    editor = AgentSpec.model_validate_json(json.dumps(examples["editor"]))
    declared = json.loads((DOCS / "examples" / "tools_registry.json").read_text())["tools"]
    assert declared[0]["name"] in (editor.tools_allowlist or ())
