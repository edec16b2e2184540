"""Declared tools: the operator's programs, with arguments on stdin and their output as a result."""

# ruff: noqa: ASYNC240 -- small files on the machine itself

import json
from pathlib import Path
from typing import Any

import pytest

from appliance.config.tool_registry import DeclaredTool
from appliance.toolbus.base import Outcome, ToolFailed
from appliance.toolbus.declared import make_declared
from tests.toolbus.environments import make_environment
from tests.toolbus.programs import nothing_left


def declare(*argv: str, **fields: Any) -> DeclaredTool:
    return DeclaredTool(
        name="mine", version="3", description="Mine.", parameters={"type": "object"}, argv=argv, **fields
    )


async def call(tool: DeclaredTool, arguments: dict[str, Any] | None = None, **settings: Any) -> Outcome:
    return await make_declared(tool, make_environment(**settings)).run(arguments or {})


async def test_arguments_come_as_canonical_json_on_stdin() -> None:
    outcome = await call(declare("cat"), {"b": [1, 2.0], "a": {"d": "é☃", "c": None}})
    said = '{"a":{"c":null,"d":"\\u00e9\\u2603"},"b":[1,2.0]}'
    assert outcome.fields == {
        "ok": True, "exit_code": 0, "stdout": said, "stdout_json": json.loads(said), "stderr": "",
    }  # fmt: skip
    assert (outcome.failure, outcome.io_bytes) == (None, 2 * len(said))


async def test_output_that_is_no_json_has_a_null_in_its_place() -> None:
    outcome = await call(declare("echo", "hello"))
    assert outcome.fields["stdout_json"] is None


async def test_no_shell_reads_the_declared_words_and_no_argument_gets_among_them() -> None:
    outcome = await call(declare("printf", "%s|", "$HOME; id", "a b"), {"x": "$(id)"})
    assert outcome.fields["stdout"] == "$HOME; id|a b|"


async def test_a_program_that_fails_tells_its_status_and_output() -> None:
    outcome = await call(declare("/bin/sh", "-c", "echo out; echo err >&2; exit 7"))
    assert outcome.failure is not None
    assert outcome.failure.kind == "nonzero_exit"
    assert outcome.fields == {"ok": False, "exit_code": 7, "stdout": "out\n", "stdout_json": None, "stderr": "err\n"}


@pytest.mark.parametrize(("own_s", "shell_s"), [(0.2, 20.0), (None, 0.2)])
async def test_a_timeout_is_its_own_or_that_of_shell(own_s: float | None, shell_s: float) -> None:
    async with nothing_left():
        outcome = await call(
            declare("/bin/sh", "-c", "echo so far; setsid sleep 100 & sleep 100", timeout_s=own_s),
            tools_shell_timeout_sec=shell_s,
        )
    assert outcome.failure is not None
    assert (outcome.failure.kind, outcome.fields["ok"], outcome.fields["stdout"]) == ("timeout", False, "so far\n")
    assert "0.2 s" in outcome.failure.message


async def test_the_last_characters_of_each_output_are_kept() -> None:
    outcome = await call(
        declare("/bin/sh", "-c", "printf 12345; printf abcde >&2"),
        tools_subprocess_stdout_max_chars=3,
        tools_subprocess_stderr_max_chars=2,
    )
    assert (outcome.fields["stdout"], outcome.fields["stderr"]) == ("345", "de")
    assert outcome.fields["stdout_json"] is None, "the end of a number is another number"


async def test_memory_is_bounded_by_the_setting() -> None:
    outcome = await call(declare("/bin/sh", "-c", "ulimit -v"), tools_subprocess_max_memory_bytes=1 << 30)
    assert outcome.fields["stdout_json"] == 1 << 20  # KiB


async def test_it_runs_where_it_is_told(tmp_path: Path) -> None:
    assert (await call(declare("pwd", cwd=tmp_path))).fields["stdout"] == f"{tmp_path}\n"
    own = (await call(declare("pwd"))).fields["stdout"].strip()
    assert not Path(own).exists()


async def test_a_program_that_is_not_there_is_a_failure() -> None:
    for argv in (("no-such-program",), ("/nonexistent/program",)):
        with pytest.raises(ToolFailed) as caught:
            await call(declare(*argv))
        assert caught.value.kind == "program_not_found"


def test_a_declared_tool_says_what_it_is() -> None:
    tool = make_declared(declare("cat"), make_environment())
    assert (tool.name, tool.version, tool.description, tool.source) == ("mine", "3", "Mine.", "registry")
    assert tool.side_effects
