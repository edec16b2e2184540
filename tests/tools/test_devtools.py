"""The developer's command: its environments, its gates, its arguments."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tools import dev
from tools.devtools import commands
from tools.devtools.files import make_once
from tools.devtools.gates import Gate, async_files, run_gates
from tools.devtools.paths import ROOT, cache_dir
from tools.devtools.venv import STAMP, SetupFailed, ensure_venv, launcher


def test_the_starter_can_be_read_by_an_old_python() -> None:
    ast.parse((ROOT / "tools" / "dev.py").read_text(), feature_version=(3, 6))


def test_an_old_python_without_a_newer_one_gets_a_clear_answer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 9, 2))
    monkeypatch.setenv("PATH", "")
    assert dev.main(["setup"]) == 1
    assert "needs Python 3.11 or later" in capsys.readouterr().err


def test_an_unknown_command_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.main(["tset"], dev.USAGE) == 2
    assert "no command 'tset'" in capsys.readouterr().err


def test_every_command_is_in_the_usage() -> None:
    assert {line.split()[0] for line in dev.USAGE.splitlines()[2:] if line[2:3].strip()} == set(commands.COMMANDS)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], ["--cov", "--cov-report="]),
        (["--all"], ["--cov", "--cov-report=term:skip-covered"]),
        (["--cov", "-k", "x"], []),
        (["--no-cov"], []),
    ],
)
def test_branches_are_always_measured_and_shown_when_wanted(arguments: list[str], expected: list[str]) -> None:
    assert commands.coverage_arguments(arguments) == expected


def test_measurements_are_the_modules_with_a_main(tmp_path: Path) -> None:
    (tmp_path / "refusals.py").write_text('"""x"""\n\ndef main(argv):\n    return 0\n')
    (tmp_path / "helpers.py").write_text("def table(rows):\n    pass\n")
    (tmp_path / "__init__.py").write_text("")
    assert commands.bench_names(tmp_path) == ["refusals"]


def test_every_gate_runs_though_one_fails_and_says_what_it_said(capsys: pytest.CaptureFixture[str]) -> None:
    chosen = [
        Gate("first", ("-c", "import sys; print('what is wrong'); sys.exit(3)")),
        Gate("second", ("-c", "print('not shown')")),
    ]
    assert run_gates(Path(sys.executable), chosen) == ["first"]
    shown = capsys.readouterr().out
    assert "what is wrong" in shown
    assert "not shown" not in shown
    assert "second       ok" in shown


def test_only_files_with_a_coroutine_go_to_the_slow_linter(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "waits.py").write_text("async def f(): pass\n")
    (tmp_path / "tests" / "plain.py").write_text("asynchronous = 1\n")
    assert async_files(tmp_path) == ["tests/waits.py"]


def test_a_folder_is_made_once(tmp_path: Path) -> None:
    made = []
    for _ in range(2):
        make_once(tmp_path / "cached", lambda folder: made.append((folder / "file").write_text("x")))
    assert len(made) == 1
    assert (tmp_path / "cached" / "file").read_text() == "x"


def test_an_interrupted_making_leaves_nothing_and_is_done_again(tmp_path: Path) -> None:
    def interrupted(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_once(tmp_path / "cached", interrupted)
    assert [found.name for found in tmp_path.iterdir()] == ["cached.lock"]
    make_once(tmp_path / "cached", lambda folder: None)
    assert list((tmp_path / "cached").iterdir()) == []


def test_what_a_killed_maker_left_is_cleared(tmp_path: Path) -> None:
    (tmp_path / ".cached.dead").mkdir()
    make_once(tmp_path / "cached", lambda folder: None)
    assert sorted(found.name for found in tmp_path.iterdir()) == ["cached", "cached.lock"]


@pytest.mark.parametrize("path", ["/a tree/.venv/bin/python", "/" + "x" * 200 + "/python"])
def test_a_path_the_kernel_cannot_read_goes_by_way_of_a_shell(path: str) -> None:
    assert launcher(path).startswith("#!/bin/sh\nexec ")
    assert launcher("/tree/.venv/bin/python").startswith("#!/tree/.venv/bin/python\n")


def test_a_relative_cache_home_is_ignored() -> None:
    assert cache_dir({"XDG_CACHE_HOME": "/somewhere"}) == Path("/somewhere/appliance-dev")
    assert cache_dir({"XDG_CACHE_HOME": "here"}) == Path.home() / ".cache" / "appliance-dev"


@pytest.mark.real
def test_an_environment_is_made_again_when_its_lock_changed_or_it_was_interrupted(tmp_path: Path) -> None:
    tree, venv, lock = tmp_path / "a tree", tmp_path / "a tree" / ".venv", tmp_path / "empty.lock"
    (tree / "appliance").mkdir(parents=True)
    (tree / "appliance" / "__main__.py").write_text(
        "def main():\n    print('it runs')\n    return 7\n\nraise SystemExit(main())"
    )
    lock.write_text("# nothing\n")
    ensure_venv(venv, lock, project=tree)
    started = subprocess.run([venv / "bin" / "appliance"], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (started.stdout, started.returncode) == ("it runs\n", 7)
    made = os.stat(venv / "bin" / "appliance").st_mtime_ns
    ensure_venv(venv, lock, project=tree)
    assert os.stat(venv / "bin" / "appliance").st_mtime_ns == made
    (venv / STAMP).unlink()
    (venv / "left over").write_text("x")
    ensure_venv(venv, lock, project=tree)
    assert not (venv / "left over").exists()
    lock.write_text("no-hash==1\n")
    with pytest.raises(SetupFailed, match=r"could not install empty\.lock"):
        ensure_venv(venv, lock, project=tree)
    assert not (venv / STAMP).exists()
