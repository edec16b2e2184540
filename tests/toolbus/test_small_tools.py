"""The tools without a world: noop, system_info, models_refresh; and what all built-in tools have in common."""

import dataclasses
import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import trio
import trio.testing

from appliance.toolbus.base import ToolEnvironment
from appliance.toolbus.builtin import (
    http_fetch,
    http_fetch_local,
    models_refresh,
    noop,
    read_file,
    system_info,
    write_file,
)
from tests.toolbus.environments import fields, make_environment, refused

MAKERS = (http_fetch, http_fetch_local, models_refresh, noop, read_file, system_info, write_file)


def with_refresh(refresh: Any, **settings: Any) -> ToolEnvironment:
    return dataclasses.replace(make_environment(**settings), refresh_models=refresh)


@pytest.mark.parametrize("module", MAKERS, ids=lambda module: module.__name__.rpartition(".")[2])
def test_every_built_in_tool_is_named_as_its_file_and_closed_to_other_arguments(module: Any) -> None:
    tool = module.make(make_environment())
    assert (tool.name, tool.version, tool.source) == (module.__name__.rpartition(".")[2], "1", "builtin")
    jsonschema.Draft202012Validator.check_schema(tool.parameters)
    assert tool.parameters["additionalProperties"] is False
    assert len(tool.description) > 30
    assert tool.description.endswith(".")
    json.dumps(dict(tool.parameters))


async def test_noop_answers_its_text() -> None:
    tool = noop.make(make_environment())
    assert await fields(tool, {}) == {}
    assert await fields(tool, {"text": "é☃"}) == {"text": "é☃"}


async def test_system_info_says_where_it_runs_and_what_is_on() -> None:
    environment = make_environment(
        tools_allow_git=True, gateway_bearer_token="a-secret-0123456789", metrics_enabled=False
    )
    found = await fields(system_info.make(environment), {})
    assert set(found) == {"python", "platform", "pid", "cwd", "features"}
    assert (found["python"], found["pid"], found["cwd"]) == (platform.python_version(), os.getpid(), os.getcwd())
    assert found["platform"].startswith("Linux ")
    assert "tools_allow_git" in found["features"]
    assert {"tools_allow_shell", "metrics_enabled"}.isdisjoint(found["features"])
    assert found["features"] == sorted(found["features"])


async def test_system_info_tells_no_secret_no_name_and_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_BEARER_TOKEN", "from-the-environment-0123")
    environment = make_environment(gateway_bearer_token="a-secret-0123456789", backend_client_cert="/etc/cert.pem")
    text = json.dumps(await fields(system_info.make(environment), {}))
    for secret in ("a-secret-0123456789", "from-the-environment-0123", "cert.pem", platform.node()):
        assert secret not in text


async def test_system_info_survives_a_working_directory_that_was_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert (await fields(system_info.make(make_environment()), {}))["cwd"] is None


async def test_models_refresh_answers_what_each_class_said() -> None:
    said: Mapping[str, Any] = {
        "ollama": {"ok": True, "models": ["a"]},
        "vllm": {"ok": False, "error": "cannot be reached"},
    }

    async def refresh() -> Mapping[str, Any]:
        await trio.lowlevel.checkpoint()
        return said

    assert await fields(models_refresh.make(with_refresh(refresh)), {}) == {"upstreams": said}


async def test_models_refresh_keeps_its_deadline(autojump_clock: trio.testing.MockClock) -> None:
    async def refresh() -> Mapping[str, Any]:
        await trio.sleep_forever()
        raise AssertionError

    tool = models_refresh.make(with_refresh(refresh, models_probe_timeout_sec=3))
    assert (await refused(tool, {})).kind == "timeout"
    assert trio.current_time() == pytest.approx(4)
