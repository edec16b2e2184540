"""Agent specs: the operator's agents by name, read strictly from AGENT_SPECS_PATH."""

import difflib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, StrictStr, ValidationError

from appliance.config.errors import Findings
from appliance.config.jsonfile import read_json_file
from appliance.config.reading import Given

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_EXAMPLE = '{"default": {"model": "fast", "tier": 0}}'
_Number = StrictInt | StrictFloat


class AgentSpec(BaseModel):
    """What one agent is and may spend. Times in seconds, sizes in bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: Annotated[StrictStr, Field(min_length=1, max_length=256)] = Field(
        "fast", description="Model, as a chat request would name it; routed once per run."
    )
    tier: Annotated[StrictInt, Field(ge=0, le=2)] = Field(
        0, description="0: read_file, http_fetch_local, noop; 1: also write_file; 2: also shell and declared tools."
    )
    max_turns: Annotated[StrictInt, Field(ge=1, le=100)] = Field(8, description="Turns of one plan and one action.")
    max_runtime_sec: Annotated[_Number, Field(gt=0, le=86400, allow_inf_nan=False)] = Field(
        60.0, description="The whole run, whatever it is doing."
    )
    max_total_tool_io_bytes: Annotated[StrictInt, Field(ge=0)] = Field(
        2_000_000, description="What all tools together may read, write, send and receive."
    )
    tools_allowlist: tuple[StrictStr, ...] | None = Field(None, description="Of its tier's tools only these.")
    seed: StrictInt | None = Field(None, description="Sent with every model call.")
    temperature: Annotated[_Number, Field(ge=0, le=2, allow_inf_nan=False)] | None = Field(
        None, description="Sent with every model call."
    )
    instructions: Annotated[StrictStr, Field(max_length=100_000)] | None = Field(
        None, description="What the model is told first, before the messages of a run."
    )
    max_tool_calls: Annotated[StrictInt, Field(ge=1, le=10_000)] | None = Field(
        None, description="All calls of a run; 1,000 where nothing is said."
    )
    parallel_tools: StrictBool | None = Field(None, description="The calls of one turn run at the same time.")

    def hashed(self) -> dict[str, Any]:
        """The part of a run's request_hash: six fields always, with their nulls; the others only where they are set."""
        given = self.model_dump(mode="json")
        six = {name: given.pop(name) for name in _ALWAYS_HASHED}
        return {
            **six,
            "max_runtime_sec": float(self.max_runtime_sec),
            **{k: v for k, v in given.items() if v is not None},
        }


_ALWAYS_HASHED = ("model", "tier", "max_turns", "max_runtime_sec", "max_total_tool_io_bytes", "tools_allowlist")

DEFAULT_SPECS: Mapping[str, AgentSpec] = {"default": AgentSpec()}


def specs_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of the file."""
    spec = AgentSpec.model_json_schema()
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Agent specs of the appliance, by name",
        "type": "object",
        "propertyNames": {"pattern": f"^{_NAME.pattern}$"},
        "minProperties": 1,
        "additionalProperties": spec,
    }


def read_agent_specs(given: Given, findings: Findings) -> Mapping[str, AgentSpec]:
    """The agents by name: those of the file, or `default` alone where there is none."""
    path = given.settings.agent_specs_path
    if path is None:
        return DEFAULT_SPECS
    raw = read_json_file(path, "AGENT_SPECS_PATH", _EXAMPLE, findings)
    if raw is None:
        return {}
    if not raw:
        findings.refuse(str(path), f"names no agent: write {_EXAMPLE}")
    return {name: spec for name, value in raw.items() if (spec := _read_spec(path, name, value, findings)) is not None}


def _read_spec(path: Path, name: str, value: object, findings: Findings) -> AgentSpec | None:
    if not _NAME.fullmatch(name):
        findings.refuse(str(path), f"{name[:64]!r} is no name: write up to 64 letters, digits, dots, _ and -")
        return None
    try:
        return AgentSpec.model_validate_json(
            json.dumps(value)
        )  # in JSON mode a list is a tuple, and a string no number
    except ValidationError as error:
        for problem in error.errors(include_url=False):
            place = ".".join((name, *map(str, problem["loc"])))
            findings.refuse(f"{path}: {place}", _explain(problem["type"], problem["msg"], place))
        return None


def _explain(kind: str, message: str, place: str) -> str:
    if kind != "extra_forbidden":
        return f"{message[:1].lower()}{message[1:]}"
    near = difflib.get_close_matches(place.rpartition(".")[2], AgentSpec.model_fields, n=1)
    return f"is unknown: did you mean {near[0]}?" if near else f"is unknown: write {', '.join(AgentSpec.model_fields)}"
