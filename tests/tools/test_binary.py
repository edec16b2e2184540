"""The build: what it leaves out is never imported, and what it writes down is right."""

import ast
import subprocess
import sys

import pytest

from tools.devtools.bom import glibc_floor
from tools.devtools.paths import PACKAGING

EVERYTHING = """
import importlib, pkgutil, sys
import appliance
for module in pkgutil.walk_packages(appliance.__path__, "appliance."):
    importlib.import_module(module.name)
print(*sys.modules)
"""


def unused() -> set[str]:
    """The list of the spec, which only PyInstaller can run."""
    for node in ast.parse((PACKAGING / "appliance.spec").read_text()).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "UNUSED":
            return set(ast.literal_eval(node.value))
    raise AssertionError("the spec has no UNUSED")


def test_nothing_that_the_executable_leaves_out_is_imported_by_any_module() -> None:
    ended = subprocess.run([sys.executable, "-c", EVERYTHING], capture_output=True, text=True, check=True, timeout=60)
    loaded = set(ended.stdout.split())
    assert "appliance.serve" in loaded
    assert loaded & unused() == set()


@pytest.mark.parametrize(
    ("needs", "floor"),
    [
        (["0x09691a75 0x00 02 GLIBC_2.2.5\n0x0d696914 0x00 03 GLIBC_2.4"], "2.17"),
        (["GLIBC_2.4", "0x00 05 GLIBC_2.34\n0x00 06 GLIBC_2.9"], "2.34"),
        (["GLIBC_2.34\nGLIBC_ABI_DT_RELR"], "2.36"),
        (["GLIBC_PRIVATE", "GLIBCXX_3.4.30"], "2.17"),
    ],
)
def test_the_glibc_floor_is_the_newest_symbol_that_any_object_wants(needs: list[str], floor: str) -> None:
    assert glibc_floor(needs) == floor
