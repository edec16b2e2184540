"""`appliance journal verify`: a byte that was flipped is found, with its file and line."""

import json
import os
from pathlib import Path

import pytest

from appliance.__main__ import main
from appliance.storage.chain import GENESIS, Link, make_draft, seal
from appliance.storage.segments import closed_path


def make_lines(first: int, count: int, head: Link = GENESIS) -> tuple[list[bytes], Link]:
    lines = []
    for number in range(first, first + count):
        sealed = seal(make_draft({"replay_id": f"tool-{number:024x}"}), head)
        lines.append(sealed.line + b"\n")
        head = sealed.link
    return lines, head


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A journal of three segments with four records each."""
    path, head = tmp_path / "invocations.jsonl", GENESIS
    for first in (1, 5, 9):
        lines, head = make_lines(first, 4, head)
        (closed_path(path, first) if first < 9 else path).write_bytes(b"".join(lines))
    return path


def flip(path: Path, position: int) -> None:
    text = bytearray(path.read_bytes())
    text[position] ^= 1
    path.write_bytes(text)


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str]:
    code = main(["journal", "verify", *argv])
    return code, capsys.readouterr().out


def test_whole_journal_is_good_and_its_head_is_shown(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    head = json.loads(path.read_bytes().splitlines()[-1])["hash"]
    assert run(capsys, str(path)) == (0, f"ok: 4 records, seq 9 to 12, head {head}\n")
    assert run(capsys, str(path), "--all") == (0, f"ok: 12 records, seq 1 to 12, head {head}\n")
    assert run(capsys, str(closed_path(path, 1)))[0] == 0


@pytest.mark.parametrize("segment", [1, 5, 9])
def test_flipped_byte_is_found_in_its_file_and_line(
    path: Path, segment: int, capsys: pytest.CaptureFixture[str]
) -> None:
    file = closed_path(path, segment) if segment < 9 else path
    flip(file, len(file.read_bytes().splitlines(keepends=True)[0]) + 50)
    code, said = run(capsys, "--all", str(path))
    assert code == 1
    assert said.startswith(f"{file}:2: ")
    assert said.splitlines()[1].startswith(f"before it: {segment} record")


def test_every_flipped_byte_is_found(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = path.read_bytes()
    for position in range(0, len(text), 7):
        flip(path, position)
        assert run(capsys, str(path))[0] == 1
        path.write_bytes(text)


def test_missing_segment_in_between_is_found_and_missing_older_ones_are_not(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    closed_path(path, 1).unlink()
    assert run(capsys, "--all", str(path))[0] == 0
    closed_path(path, 1).write_bytes(b"".join(make_lines(1, 4)[0]))
    closed_path(path, 5).unlink()
    code, said = run(capsys, "--all", str(path))
    assert (code, "seq 9 comes after 4" in said) == (1, True)


def test_json_says_the_same(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    head = json.loads(path.read_bytes().splitlines()[-1])["hash"]
    good = json.loads(run(capsys, "--json", "--all", str(path))[1])
    assert good == {
        "ok": True,
        "records": 12,
        "first_seq": 1,
        "last_seq": 12,
        "head": head,
        "file": None,
        "line": None,
        "reason": None,
    }
    path.write_bytes(path.read_bytes()[:-1])
    bad = json.loads(run(capsys, "--json", "--all", str(path))[1])
    assert (bad["ok"], bad["records"], bad["file"], bad["line"]) == (False, 11, str(path), 4)
    assert "torn" in bad["reason"]


def test_directory_of_files_is_walked_in_the_order_of_the_chain(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines, head = make_lines(1, 5)
    names = [tmp_path / f"tool-{number:024x}.json" for number in (5, 1, 4, 2, 3)]
    for name, line in zip(names, lines, strict=True):
        name.write_bytes(line)
    assert run(capsys, str(tmp_path)) == (0, f"ok: 5 records, seq 1 to 5, head {head.hash}\n")
    names[2].unlink()
    assert run(capsys, str(tmp_path))[1].startswith(f"{names[3]}:1: seq 4 comes after 2")
    flip(names[0], 5)
    assert run(capsys, str(tmp_path))[1].startswith(f"{names[0]}:1: ")


def test_empty_journal_is_good(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "invocations.jsonl").touch()
    assert run(capsys, str(tmp_path / "invocations.jsonl")) == (0, "ok: no records\n")


def test_what_cannot_be_read_is_neither_good_nor_bad(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("missing", "pipe", "."):
        assert main(["journal", "verify", str(tmp_path / name)]) == 2
        assert "appliance: " in capsys.readouterr().err
