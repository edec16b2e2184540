"""The locks: held to pyproject's ranges, to each other, and free of addresses."""

import tomllib
from pathlib import Path

import pytest

from tools.devtools.locks import PIN, TITLES, digest_of, ranges_of, stale_locks, without_platform
from tools.devtools.paths import BUILD_LOCK, DEV_LOCK, PYPROJECT, RUNTIME_LOCK, TOOLS_LOCK


def project(
    runtime: str = "h11>=0.16", dev: str = "pytest>=8", tools: str = "uv>=0.9", build: str = "pyinstaller>=6"
) -> dict[str, object]:
    return {
        "project": {"dependencies": [runtime], "optional-dependencies": {"dev": [dev]}},
        "dependency-groups": {"tools": [tools], "build": [build]},
    }


PROJECT = project()
BODIES = {
    RUNTIME_LOCK: "h11==0.16.0",
    DEV_LOCK: "h11==0.16.0\npytest==9.2.0",
    TOOLS_LOCK: "uv==0.13.9",
    BUILD_LOCK: "pyinstaller==6.22.3",
}


def texts(**changed: str) -> dict[Path, str]:
    bodies = {lock: changed.get(lock.stem, body) for lock, body in BODIES.items()}
    return {k: f"# t\n# ranges: sha256:{digest_of(ranges_of(k, PROJECT))}\n\n{body}\n" for k, body in bodies.items()}


def test_locks_made_from_todays_ranges_are_fresh() -> None:
    assert stale_locks(texts(), PROJECT) == []


def test_this_trees_own_locks_pin_every_range_with_hashes() -> None:
    own = tomllib.loads(PYPROJECT.read_text())
    for lock in TITLES:
        body = lock.read_text()
        pins = dict(PIN.findall(body))
        names = {line.split(">")[0].split("=")[0].lower().replace("_", "-") for line in ranges_of(lock, own)}
        assert names <= set(pins)
        assert body.count("==") <= body.count("--hash=sha256:")
        assert "://" not in body


@pytest.mark.parametrize(
    ("lock", "change"),
    [
        ("requirements.lock", project(runtime="h11>=0.17")),
        ("dev.lock", project(dev="pytest>=9")),
        ("tools.lock", project(tools="uv>=1")),
        ("build.lock", project(build="pyinstaller>=7")),
    ],
)
def test_a_changed_range_makes_its_lock_stale(lock: str, change: dict[str, object]) -> None:
    problems = stale_locks(texts(), change)
    assert any(problem.startswith(lock) and "dev.py lock" in problem for problem in problems)


def test_what_ships_must_be_the_version_that_is_tested() -> None:
    (problem,) = stale_locks(texts(requirements="h11==0.15.0"), PROJECT)
    assert "ships h11 0.15.0, but dev.lock tests 0.16.0" in problem


def test_an_address_in_a_lock_is_refused() -> None:
    (problem,) = stale_locks(texts(tools="--index-url https://example.invalid/\nuv==0.13.9"), PROJECT)
    assert "names an address" in problem


def test_the_order_of_the_ranges_does_not_matter() -> None:
    assert digest_of(["a", "b"]) == digest_of(["b", "a"])


def test_only_the_platform_marker_is_dropped() -> None:
    assert without_platform("a==1 ; sys_platform == 'linux' \\") == "a==1 \\"
    kept = "b==1 ; python_full_version == '3.13.*'"
    assert without_platform(f"{kept} and sys_platform == 'linux' \\") == f"{kept} \\"
