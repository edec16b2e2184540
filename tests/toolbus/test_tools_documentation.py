"""docs/tools.md: its example runs and gives what it says, and its tables are the code's."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from appliance.config.errors import Findings
from appliance.config.tool_registry import BUILTIN_TOOLS, load_tool_registry
from appliance.toolbus import git_rules, shell_rules
from appliance.toolbus.arguments import Options
from appliance.toolbus.declared import make_declared
from appliance.toolbus.program import PATH
from appliance.toolbus.registry import BUILTINS
from tests.toolbus.environments import make_environment

DOCS = Path(__file__).parents[2] / "docs"
DOCUMENT = (DOCS / "tools.md").read_text(encoding="utf-8")
EXAMPLE = DOCS / "examples" / "tools_registry.json"


def examples() -> list[Any]:
    return [json.loads(text) for text in re.findall(r"```json\n(.*?)```", DOCUMENT, re.DOTALL)]


def test_the_example_is_the_file() -> None:
    assert examples()[0] == json.loads(EXAMPLE.read_text())


async def test_the_example_runs_and_gives_what_is_said() -> None:
    if shutil.which("python3", path=PATH) is None:
        pytest.skip("no python3 among the machine's own programs")
    findings = Findings.none()
    registry = load_tool_registry(EXAMPLE, findings)
    assert registry is not None
    assert (findings.mistakes, findings.warnings) == ([], [])
    tool = make_declared(registry.tools[0], make_environment())
    outcome = await tool.run({"text": "to be or not to be", "most": 2})
    assert outcome.failure is None
    assert outcome.fields == examples()[1]


def test_every_option_of_git_is_listed_and_no_other() -> None:
    rows = dict(re.findall(r"^\| ((?:`[a-z-]+`(?:, )?)+) \| `(.*)` \|$", DOCUMENT.split("## git\n")[1], re.MULTILINE))
    listed = {
        subcommand: {option for names, row in rows.items() if f"`{subcommand}`" in names for option in row.split()}
        for subcommand in git_rules._SUBCOMMANDS
    }
    assert listed == {subcommand: every(allowed) for subcommand, allowed in git_rules._SUBCOMMANDS.items()}


def every(allowed: Options) -> frozenset[str]:
    return allowed.flags | allowed.valued | allowed.optional


def test_every_program_with_a_rule_is_listed() -> None:
    table = DOCUMENT.split("## shell\n")[1].split("## git\n")[0]
    listed = set(re.findall(r"`([a-z0-9]+)`", "\n".join(re.findall(r"^\| (.*?) \|", table, re.MULTILINE))))
    kin = {"gawk", "mawk", "nawk", "original-awk", "gsed", "gtar", "bsdtar", "fdfind", "ripgrep"}  # other names
    assert listed - {"git"} == set(shell_rules._RULES) - kin


def test_the_path_that_is_said_is_the_path() -> None:
    assert DOCUMENT.count(PATH) == 2


def test_the_names_that_a_registry_may_not_take_are_the_built_in_tools() -> None:
    assert set(BUILTINS) == BUILTIN_TOOLS
