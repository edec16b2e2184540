"""shell: only allowed programs run, found by what they lead to, and what they gave is told."""

# ruff: noqa: ASYNC240 -- small files on the machine itself

import os
from pathlib import Path
from typing import Any

import pytest

from appliance.toolbus.base import Outcome, ToolFailed
from appliance.toolbus.builtin.shell import find_allowed, make
from tests.toolbus.environments import make_environment
from tests.toolbus.programs import nothing_left
from tests.toolbus.repositories import make_repository

LS = os.path.realpath("/bin/ls")


async def shell(cmd: str, allowed: str = "echo,cat,ls,pwd,printf,sleep,env,sh,git", **settings: Any) -> Outcome:
    return await make(make_environment(tools_shell_allowed_cmds=allowed, **settings)).run({"cmd": cmd})


async def refused(cmd: str, allowed: str) -> ToolFailed:
    with pytest.raises(ToolFailed) as caught:
        await shell(cmd, allowed)
    return caught.value


async def test_a_command_runs_and_its_output_is_told() -> None:
    outcome = await shell("printf 'a %s' \"b c\"")
    assert outcome.fields == {"returncode": 0, "stdout": "a b c", "stderr": ""}
    assert outcome.failure is None
    assert outcome.io_bytes == 5
    assert outcome.cpu_s > 0


@pytest.mark.parametrize(
    ("text", "value"),
    [('{"a": [1, 2.5, null]}\n', {"a": [1, 2.5, None]}), ("[1]", [1]), (" 3 ", 3), ("null", None), ('"x"', "x")],
)
async def test_json_output_is_given_parsed_as_well(text: str, value: object) -> None:
    fields = (await shell(f"printf '%s' '{text}'")).fields
    assert (fields["stdout"], fields["stdout_json"]) == (text, value)


@pytest.mark.parametrize(
    "text",
    ["", "a", "{", "NaN", "1e400", '{"a":1,"a":2}', '"\\ud800"', "[" * 100 + "]" * 100, '1,"b":2', '1}{"a":2', "1 2"],
)
async def test_what_is_no_json_is_text_alone(text: str) -> None:
    fields = (await shell(f"printf '%s' '{text}'")).fields
    assert "stdout_json" not in fields


async def test_half_of_a_long_json_output_is_text_alone() -> None:
    fields = (await shell("printf '%s' 12345678", tools_subprocess_stdout_max_chars=3)).fields
    assert fields == {"returncode": 0, "stdout": "678", "stderr": ""}


async def test_a_command_that_fails_is_a_failure_with_its_output() -> None:
    outcome = await shell("ls -d / /nonexistent")
    assert outcome.failure is not None
    assert outcome.failure.kind == "nonzero_exit"
    assert (outcome.fields["returncode"], outcome.fields["stdout"]) == (2, "/\n")
    assert "/nonexistent" in outcome.fields["stderr"]


async def test_a_command_that_takes_too_long_is_killed() -> None:
    async with nothing_left():
        outcome = await shell("sleep 100", tools_shell_timeout_sec=0.2)
    assert outcome.failure is not None
    assert (outcome.failure.kind, outcome.fields["returncode"]) == ("timeout", -9)


async def test_it_runs_in_an_empty_directory_of_its_own_or_where_it_is_told(tmp_path: Path) -> None:
    own = (await shell("pwd")).fields["stdout"].strip()
    assert not Path(own).exists()
    assert (await shell("ls -A")).fields["stdout"] == ""
    assert (await shell("pwd", tools_shell_cwd=tmp_path)).fields["stdout"] == f"{tmp_path}\n"
    with pytest.raises(ToolFailed) as caught:
        await shell("pwd", tools_shell_cwd=tmp_path / "none")
    assert caught.value.kind == "cwd_missing"


@pytest.mark.parametrize("allowed", ["", "cat", "/nonexistent/echo", "./echo", "ec"])
async def test_what_is_not_allowed_does_not_run(allowed: str) -> None:
    assert (await refused("echo x", allowed)).kind == "command_not_allowed"


async def test_with_an_empty_list_nothing_is_allowed_and_the_setting_is_named() -> None:
    assert "TOOLS_SHELL_ALLOWED_CMDS" in (await refused("echo x", "")).message


@pytest.mark.parametrize(
    "cmd", ["./ls", "bin/ls", "../bin/ls", "/bin/../bin/ls", "/bin//ls", "ls/", "/", "..", "''", "A=b ls"]
)
async def test_a_program_goes_by_name_or_plain_absolute_path(cmd: str) -> None:
    assert (await refused(cmd, "ls")).kind == "command_not_allowed"


async def test_another_program_of_the_same_name_is_not_the_allowed_one(tmp_path: Path) -> None:
    fake = tmp_path / "ls"
    fake.write_text("#!/bin/sh\necho fake\n")
    fake.chmod(0o755)
    assert (await refused(str(fake), "ls")).kind == "command_not_allowed"
    assert (await shell(f"{fake}", str(fake))).fields["stdout"] == "fake\n"
    assert (await refused("ls", str(fake))).kind == "command_not_allowed"


async def test_what_runs_is_what_the_operator_named(tmp_path: Path) -> None:
    """A link to it leads there, and may lead elsewhere a moment later."""
    link = tmp_path / "ls"
    link.symlink_to(LS)
    assert find_allowed(str(link), ("ls",)) in {"/usr/bin/ls", "/bin/ls"}


async def test_of_many_programs_in_one_file_only_the_named_one_is_allowed(tmp_path: Path) -> None:
    """busybox: `ls` and `sh` are the same file."""
    box = tmp_path / "box"
    box.write_text('#!/bin/sh\necho "$0"\n')
    box.chmod(0o755)
    for name in ("list", "shell"):
        (tmp_path / name).symlink_to(box)
    assert (await shell(str(tmp_path / "list"), str(tmp_path / "list"))).fields["stdout"] == f"{tmp_path / 'list'}\n"
    assert (await refused(str(tmp_path / "shell"), str(tmp_path / "list"))).kind == "command_not_allowed"
    assert (await refused(str(box), str(tmp_path / "list"))).kind == "command_not_allowed"


@pytest.mark.parametrize("cmd", ["sh -c id", "env id", "git -c alias.x=!id x", "git clone x"])
async def test_an_allowed_program_keeps_to_its_rules(cmd: str) -> None:
    assert (await refused(cmd, "sh,env,git")).kind in {"command_not_allowed", "argument_refused"}


async def test_a_link_to_a_program_has_its_rules(tmp_path: Path) -> None:
    link = tmp_path / "order"
    link.symlink_to("/usr/bin/sort")
    assert (await refused(f"{link} -o x y", str(link))).kind == "argument_refused"
    assert (await shell(f"{link} /dev/null", str(link))).fields["returncode"] == 0


async def test_git_goes_by_the_rules_and_the_view_of_the_tool_git(tmp_path: Path) -> None:
    repository = make_repository(tmp_path)
    repository.configure(core__fsmonitor=str(repository.evil))
    outcome = await shell("git status --short --branch", tools_shell_cwd=repository.path)
    assert outcome.fields["stdout"] == "## main\n"
    assert not repository.mark.exists()


async def test_sed_keeps_to_its_sandbox(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("one\n")
    for script in ("w out", "s/one/two/w out", "e touch out", "s/one/touch out/e", "1r /etc/passwd"):
        outcome = await shell(f"sed -n '{script}' f", "sed", tools_shell_cwd=tmp_path)
        assert outcome.failure is not None
        assert "sandbox" in outcome.fields["stderr"]
    assert os.listdir(tmp_path) == ["f"]
    assert (await shell("sed s/one/two/ f", "sed", tools_shell_cwd=tmp_path)).fields["stdout"] == "two\n"


def test_the_tool_takes_a_line_and_nothing_else() -> None:
    tool = make(make_environment())
    assert (tool.name, tool.version, tool.side_effects, tool.source) == ("shell", "1", True, "builtin")
    assert tool.parameters["additionalProperties"] is False
