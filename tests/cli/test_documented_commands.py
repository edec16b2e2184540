"""What is written of commands: the man page, the exit codes, `--json`, and the completion of shells."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from appliance.__main__ import main
from appliance.cli import COMMANDS, appliance
from appliance.cli.completion import SHELLS, completion_script
from appliance.cli.passing import PassThrough, options_of
from appliance.host.failures import Exit
from tools.devtools.manpage import PAGE, manpage

ROOT = Path(__file__).parents[2]
DOCS = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
JSON_ANYWAY = {"tools run", "tools replay", "config schema", "release definitions"}
NO_REPORT = {"serve", "completion"}


def every_command() -> Iterator[tuple[str, click.Command]]:
    for name, row in COMMANDS.items():
        command = row.load()
        if isinstance(command, click.Group):
            yield from ((f"{name} {child}", one) for child, one in command.commands.items())
        else:
            yield name, command


def options(command: click.Command) -> set[str]:
    if isinstance(command, PassThrough):
        return {name for name, _, _ in options_of(command.load_parser())}
    return {name for parameter in command.params for name in parameter.opts}


def test_every_command_that_reports_has_json() -> None:
    without = {name for name, command in every_command() if "--json" not in options(command)}
    assert without == JSON_ANYWAY | NO_REPORT
    for name in JSON_ANYWAY:
        assert f"`{name}`" in DOCS


def test_the_man_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == manpage(), "run `python3 tools/dev.py man`"


def test_the_man_page_has_every_command_and_option() -> None:
    page = manpage().replace("\\-", "-")
    for name, command in every_command():
        assert f".SS appliance {name}" in page
        section = page.split(f".SS appliance {name}", 1)[1].split(".SS ", 1)[0]
        for option in options(command):
            assert not option.startswith("--") or option == "--help" or f".B {option}" in section, (name, option)


@pytest.mark.skipif(shutil.which("groff") is None, reason="no groff")
def test_groff_has_no_complaint_about_the_man_page() -> None:
    done = subprocess.run(["groff", "-man", "-Tutf8", "-ww", "-z", str(PAGE)], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_the_documented_exit_codes_are_those_in_the_code() -> None:
    documented = {int(code) for code in re.findall(r"^\| `(\d+)` \|", DOCS, re.MULTILINE)}
    sources = "".join(
        file.read_text(encoding="utf-8")
        for folder in ("cli", "verification")
        for file in sorted((ROOT / "appliance" / folder).glob("*.py"))
    )
    sources += (ROOT / "appliance" / "__main__.py").read_text(encoding="utf-8")
    stated = {int(code) for code in re.findall(r"^EXIT_[A-Z]+ = (\d+)", sources, re.MULTILINE)}
    returned = {int(code) for code in re.findall(r"^\s+return (?:(?:0 if .*? else )?(\d+))(?:\s+#.*)?$", sources, re.M)}
    assert documented == stated | returned | {int(code) for code in Exit} | {0, 3}


@pytest.mark.parametrize("code", Exit)
def test_codes_of_sysexits_have_their_names(code: Exit) -> None:
    name = re.search(rf"^\| `{int(code)}` \| `(EX_[A-Z]+)` \|", DOCS, re.MULTILINE)
    assert name is not None
    assert getattr(os, name[1]) == code


@pytest.mark.parametrize("shell", SHELLS)
def test_the_completion_of_a_shell_is_printed(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    said = capsys.readouterr().out
    assert said == completion_script(shell) + "\n"
    assert "_APPLIANCE_COMPLETE" in said
    if program := shutil.which(shell):
        done = subprocess.run([program, "-n"], input=said.encode(), capture_output=True, check=False)
        assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["rel"], {"release"}),
        (["release", ""], {"freeze", "verify", "diff", "definitions"}),
        (["release", "freeze", "--o"], {"--out", "--obs-url"}),
        (["verify", "--base"], {"--base-url"}),
        (["completion", ""], set(SHELLS)),
    ],
)
def test_commands_options_and_choices_are_completed(
    words: list[str], found: set[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("_APPLIANCE_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", " ".join(["appliance", *words]))
    monkeypatch.setenv("COMP_CWORD", str(len(words)))
    with pytest.raises(SystemExit) as stopped:
        appliance.main([], prog_name="appliance", standalone_mode=False)
    assert stopped.value.code == 0
    offered = {line.partition(",")[2] for line in capsys.readouterr().out.splitlines()}
    assert offered == found


def test_what_release_definitions_says_is_digests_and_the_same_twice(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert main(["release", "definitions"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert first["tool_registry"] is None
    digests = {name: value for name, value in first.items() if value is not None}
    assert digests.keys() == {"tools", "aliases", "agents", "settings_schema", "openapi"}
    assert all(re.fullmatch("[0-9a-f]{64}", value) for value in digests.values())
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))
    monkeypatch.setenv("MODEL_ALIASES_JSON", '{"aliases":{"mine":"ollama:x"}}')
    assert main(["release", "definitions"]) == 0
    assert json.loads(capsys.readouterr().out) == first, "as shipped: not as this box is configured"
    assert main(["release", "definitions", "--effective"]) == 0
    effective = json.loads(capsys.readouterr().out)
    assert {name for name in first if effective[name] != first[name]} == {"aliases"}
