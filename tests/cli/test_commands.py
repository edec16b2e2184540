"""The table of commands: what is said of right and wrong usage, and what each exit code means."""

import importlib
import json
import sys
from collections.abc import Sequence
from types import ModuleType

import pytest

import appliance
from appliance.__main__ import main
from appliance.cli import COMMANDS
from appliance.config.errors import ConfigError, Mistake


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("APPLIANCE_ENV_FILE", "/dev/null")


def _stand_in(monkeypatch: pytest.MonkeyPatch, name: str, **functions: object) -> None:
    module = ModuleType(name)
    vars(module).update(functions)
    monkeypatch.setitem(sys.modules, name, module)
    package, _, child = name.rpartition(".")
    monkeypatch.setattr(importlib.import_module(package), child, module, raising=False)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_loads_and_has_a_help_line(name: str) -> None:
    assert COMMANDS[name].load().name == name
    assert COMMANDS[name].help.endswith(".")


def test_help_names_every_command_and_loads_none(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("serve", "config", "version", "verify"):
        monkeypatch.setitem(sys.modules, f"appliance.cli.{name}", None)  # importing it would fail
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    for name, row in COMMANDS.items():
        assert f"  {name} " in said
        assert row.help in said


def test_no_command_is_wrong_usage_with_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    said = "".join(capsys.readouterr())
    assert "verify-images" in said


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["sevre"], "did you mean `appliance serve`?"),
        (["dance"], "see `appliance --help`"),
        (["--dance"], "--dance"),
        (["serve", "--port", "1"], "--port"),
        (["serve", "now"], "now"),
        (["version", "--yaml"], "--yaml"),
        (["config", "chek"], "check"),
    ],
)
def test_wrong_usage_is_said_with_exit_2(capsys: pytest.CaptureFixture[str], argv: list[str], said: str) -> None:
    assert main(argv) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert said in captured.err


@pytest.mark.parametrize(
    "argv", [["--help"], ["serve", "-h"], ["config", "--help"], ["config", "show", "--help"], ["version", "--help"]]
)
def test_every_level_has_help(capsys: pytest.CaptureFixture[str], argv: list[str]) -> None:
    assert main(argv) == 0
    assert capsys.readouterr().out.startswith("Usage: appliance")


def test_version_says_version_python_and_platform(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version"]) == 0
    assert capsys.readouterr().out.startswith(f"appliance {appliance.__version__} (Python 3.")


def test_version_of_the_source_has_no_commit_and_no_build(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert set(facts) == {"version", "python", "commit", "platform", "build"}
    assert (facts["commit"], facts["build"]) == (None, None)


@pytest.mark.parametrize("argv", [[], ["--help"], ["--token", "x", "--", "-v", "--json"]])
def test_verify_images_gets_its_arguments_untouched(monkeypatch: pytest.MonkeyPatch, argv: list[str]) -> None:
    seen: list[Sequence[str]] = []

    def program(arguments: Sequence[str]) -> int:
        seen.append(arguments)
        return 130

    _stand_in(monkeypatch, "appliance.verification.images", main=program)
    assert main(["verify-images", *argv]) == 130
    assert seen == [argv]


def test_serve_runs_what_was_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(configuration: object) -> int:
        seen.append(configuration.settings.gateway_port)  # type: ignore[attr-defined]
        return 7

    seen: list[int] = []
    _stand_in(monkeypatch, "appliance.serve", run=run)
    monkeypatch.setenv("GATEWAY_PORT", "1234")
    assert main(["serve"]) == 7
    assert seen == [1234]


def test_serve_says_bad_configuration_before_it_imports_anything(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "appliance.serve", None)
    monkeypatch.setenv("GATEWAY_PORT", "x")
    monkeypatch.setenv("IMAGES_BACKEND", "x")
    assert main(["serve"]) == 78
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("appliance: GATEWAY_PORT: 'x' cannot be used: write a whole number")
    assert "and 1 more" in captured.err


def test_a_mistake_that_serve_finds_is_78_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(_configuration: object) -> int:
        raise ConfigError((Mistake("GATEWAY_PORT", "is taken: choose another"),))

    _stand_in(monkeypatch, "appliance.serve", run=run)
    assert main(["serve"]) == 78
    assert capsys.readouterr().err == "appliance: GATEWAY_PORT: is taken: choose another\n"


def test_ctrl_c_is_quiet(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def run(_configuration: object) -> int:
        raise KeyboardInterrupt

    _stand_in(monkeypatch, "appliance.serve", run=run)
    assert main(["serve"]) == 130
    assert "".join(capsys.readouterr()).strip() == ""
