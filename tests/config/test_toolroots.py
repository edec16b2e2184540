"""Tool roots: apart from what the gateway reads, keeps and trusts."""

from pathlib import Path

import pytest

from tests.config.conftest import Load, Refuse

TOKEN = "0123456789abcdef"


@pytest.fixture
def work(tmp_path: Path) -> Path:
    directory = tmp_path / "work"
    directory.mkdir()
    return directory


@pytest.fixture
def state(tmp_path: Path) -> Path:
    directory = tmp_path / "state"
    directory.mkdir()
    return directory


def test_a_directory_apart_is_a_root(load: Load, work: Path, state: Path) -> None:
    (state / "files").mkdir()
    loaded = load(STATE_DIRECTORY=str(state), TOOLS_FS_ROOTS=f"{work},{state}/files", TOOLS_ALLOW_FS="true")
    assert loaded.settings.tools_fs_roots == (work, state / "files")
    assert not [line for line in loaded.warnings if "TOOLS_FS_ROOTS" in line]


@pytest.mark.parametrize(
    "root",
    [
        "/",
        "{state}",
        "{parent}",
        "{state}/images",
        "{state}/images/x",
        "{state}/tools",
        "{etc}",
        "{etc}/x",
        "/proc",
        "/proc/self",
        "/sys/kernel",
    ],
)
def test_a_root_with_the_gateways_own_files_in_reach_is_refused(
    refuse: Refuse, state: Path, etc: Path, tmp_path: Path, root: str
) -> None:
    written = root.format(state=state, etc=etc, parent=tmp_path)
    (mistake,) = refuse(STATE_DIRECTORY=str(state), TOOLS_FS_ROOTS=written)
    assert mistake.where == "TOOLS_FS_ROOTS"
    assert mistake.message.startswith(f"{written} is not apart from ")


@pytest.mark.parametrize(
    "name", ["GATEWAY_TOKEN_FILE", "APPLIANCE_ENV_FILE", "REQUEST_LOG_PATH", "CREDENTIALS_DIRECTORY"]
)
def test_a_root_that_holds_a_file_named_elsewhere_is_refused(
    refuse: Refuse, state: Path, work: Path, name: str
) -> None:
    path = work / "own"
    if name == "CREDENTIALS_DIRECTORY":
        path.mkdir()
    else:
        path.write_text(f"#\n{TOKEN}\n" if name == "GATEWAY_TOKEN_FILE" else "# nothing\n")
        path.chmod(0o600)
    mistakes = refuse({"STATE_DIRECTORY": str(state), "TOOLS_FS_ROOTS": str(work), name: str(path)})
    assert [mistake.message for mistake in mistakes if mistake.where == "TOOLS_FS_ROOTS"] == [
        f"{work} is not apart from {path}, which is the gateway's own: write another"
    ]


def test_a_link_to_the_state_directory_is_seen_through(refuse: Refuse, state: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(state)
    (mistake,) = refuse(STATE_DIRECTORY=str(state), TOOLS_FS_ROOTS=str(tmp_path / "link"))
    assert mistake.where == "TOOLS_FS_ROOTS"


def test_a_root_that_is_not_there_yet_is_warned_of(load: Load, state: Path, tmp_path: Path) -> None:
    loaded = load(STATE_DIRECTORY=str(state), TOOLS_FS_ROOTS=str(tmp_path / "later"))
    assert any("is no directory" in line for line in loaded.warnings)


def test_a_root_whose_links_lead_in_a_circle_is_warned_of(load: Load, state: Path, tmp_path: Path) -> None:
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    loaded = load(STATE_DIRECTORY=str(state), TOOLS_FS_ROOTS=str(tmp_path / "circle"))
    assert any("is no directory" in line for line in loaded.warnings)


@pytest.mark.parametrize("switch", ["TOOLS_ALLOW_FS", "TOOLS_ALLOW_FS_WRITE"])
def test_file_tools_without_a_root_are_warned_of(load: Load, switch: str) -> None:
    assert any("file tools are on and have no directory" in line for line in load({switch: "true"}).warnings)
