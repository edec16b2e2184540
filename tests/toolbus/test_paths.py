"""Paths: which of them mean a file below a root, and that what is shown means the same file again."""

from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.toolbus.base import ToolFailed
from appliance.toolbus.paths import MAX_PATH_BYTES, Place, parse_place

ROOTS = (Path("/srv/work"), Path("/srv/work/inner"), Path("/data"))

GOOD = {
    "a": ("/srv/work", "a", "a"),
    "a/b.txt": ("/srv/work", "a/b.txt", "a/b.txt"),
    "./a": ("/srv/work", "a", "a"),
    "a/./b": ("/srv/work", "a/b", "a/b"),
    "...": ("/srv/work", "...", "..."),
    "..a/b..": ("/srv/work", "..a/b..", "..a/b.."),
    "-rf": ("/srv/work", "-rf", "-rf"),
    "ä ☃\n": ("/srv/work", "ä ☃\n", "ä ☃\n"),
    "~/a": ("/srv/work", "~/a", "~/a"),
    "inner/a": ("/srv/work", "inner/a", "inner/a"),
    "/srv/work/a": ("/srv/work", "a", "a"),
    "/srv/./work/a": ("/srv/work", "a", "a"),
    "/srv/work/inner/a": ("/srv/work/inner", "a", "/srv/work/inner/a"),
    "/data/a/b": ("/data", "a/b", "/data/a/b"),
    "data/a": ("/srv/work", "data/a", "data/a"),
    "x" * 255: ("/srv/work", "x" * 255, "x" * 255),
    "é" * 127: ("/srv/work", "é" * 127, "é" * 127),
}


@pytest.mark.parametrize("path", GOOD)
def test_path_below_a_root_is_placed(path: str) -> None:
    root, below, shown = GOOD[path]
    assert parse_place(path, ROOTS) == Place(Path(root), tuple(below.split("/")), shown)


BAD = {
    "": "invalid_path",
    "/": "invalid_path",
    "a/": "invalid_path",
    "a//b": "invalid_path",
    "//srv/work/a": "invalid_path",
    "..": "invalid_path",
    "../a": "invalid_path",
    "a/../b": "invalid_path",
    "a/..": "invalid_path",
    "/srv/work/../work/a": "invalid_path",
    "a\0": "invalid_path",
    "a\0/../b": "invalid_path",
    "\ud800": "invalid_path",
    "x" * 256: "invalid_path",
    "é" * 128: "invalid_path",
    "a/" * (MAX_PATH_BYTES // 2) + "a": "invalid_path",
    ".": "not_a_file",
    "./.": "not_a_file",
    "/srv/work": "not_a_file",
    "/srv/work/.": "not_a_file",
    "/etc/passwd": "path_not_allowed",
    "/srv": "path_not_allowed",
    "/srv/workshop/a": "path_not_allowed",
    "/proc/self/environ": "path_not_allowed",
    "/Srv/work/a": "path_not_allowed",
}


@pytest.mark.parametrize("path", BAD)
def test_any_other_path_is_refused(path: str) -> None:
    with pytest.raises(ToolFailed) as caught:
        parse_place(path, ROOTS)
    assert caught.value.kind == BAD[path]
    assert "/srv" not in caught.value.message


def test_without_roots_no_path_means_anything() -> None:
    with pytest.raises(ToolFailed, match="TOOLS_FS_ROOTS") as caught:
        parse_place("a", ())
    assert caught.value.kind == "no_roots"


PARTS = st.one_of(st.text(max_size=5), st.sampled_from(["..", ".", "", "srv", "work", "inner", "data", "etc", "\0"]))


@given(st.lists(PARTS, max_size=7).map("/".join))
def test_every_path_is_refused_or_lies_below_its_root_and_is_shown_as_what_means_the_same(path: str) -> None:
    try:
        place = parse_place(path, ROOTS)
    except ToolFailed:
        return
    assert place.root in ROOTS
    assert place.parts
    for part in place.parts:
        assert part not in ("", ".", "..")
        assert "/" not in part
        assert "\0" not in part
    again = parse_place(place.shown, ROOTS)
    assert again.root.joinpath(*again.parts) == place.root.joinpath(*place.parts)
    plain = PurePosixPath(path)
    assert place.root.joinpath(*place.parts) == (plain if plain.is_absolute() else ROOTS[0] / plain)
