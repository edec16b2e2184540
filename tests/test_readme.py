"""README: its tables are the code's tables."""

import re
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from appliance.backends.registry import IMAGE_BACKENDS, LANGUAGE_BACKENDS
from appliance.config.settings import Settings
from appliance.server.routes import API_PATHS, OBSERVABILITY_PATHS
from appliance.toolbus.gate import SWITCHES
from appliance.toolbus.registry import BUILTINS
from tests.house import open_house

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def shown_default(value: Any) -> str:
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if value is None or value in ("", ()):
        return ""
    if isinstance(value, tuple):
        value = ",".join(map(str, value))
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def settings_rows() -> list[str]:
    return [
        f"| `{name.upper()}` | {shown_default(field.get_default())} | {field.description} |"
        for name, field in Settings.model_fields.items()
    ]


def table_column(title: str) -> list[str]:
    """The first column of the table under this heading, without its back ticks."""
    section = README.split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]
    return [match.group(1) for match in re.finditer(r"^\| `([^`]+)`", section, re.MULTILINE)]


def test_the_settings_table_is_the_settings_model() -> None:
    section = README.split("## Settings\n", 1)[1].split("\n## ", 1)[0]
    found = [line for line in section.splitlines() if line.startswith("| `")]
    assert found == settings_rows(), "\n" + "\n".join(settings_rows())


def test_the_endpoint_table_is_the_route_table() -> None:
    paths = {entry.split(" ", 1)[1] for entry in table_column("Endpoints")}
    assert paths == API_PATHS
    assert paths >= OBSERVABILITY_PATHS


def test_every_image_backend_has_a_row() -> None:
    assert set(table_column("Image servers")) == set(IMAGE_BACKENDS)


def test_every_language_provider_has_a_row() -> None:
    assert set(table_column("Model servers")) == set(LANGUAGE_BACKENDS)


def test_every_built_in_tool_has_a_row_with_its_switch() -> None:
    rows = dict(re.findall(r"^\| `([a-z_]+)` \| (?:`TOOLS_ALLOW_([A-Z_]+)`|always on) \|", README, re.MULTILINE))
    assert rows.keys() == BUILTINS.keys()
    assert {name: switch.lower() for name, switch in rows.items() if switch} == dict(SWITCHES)


async def test_the_route_table_is_what_is_served(tmp_path: Path) -> None:
    async with open_house(tmp_path) as house:
        assert set(house.site.api.routes) == API_PATHS
        assert set(house.site.observability.routes) == OBSERVABILITY_PATHS


def test_the_two_commands_stand_near_the_top() -> None:
    top = README.splitlines()[:30]
    assert any("python3 tools/dev.py run" in line for line in top)
    assert any("python3 tools/dev.py test" in line for line in top)
