"""The suite's own switch: what starts real programs waits for `--all`."""

from dataclasses import dataclass, field

import pytest

from tests.conftest import pytest_collection_modifyitems


@dataclass
class FakeConfig:
    everything: bool

    def getoption(self, name: str) -> bool:
        assert name == "--all"
        return self.everything


@dataclass
class FakeItem:
    marks: list[str]
    added: list[str] = field(default_factory=list)

    def get_closest_marker(self, name: str) -> str | None:
        return name if name in self.marks else None

    def add_marker(self, mark: pytest.MarkDecorator) -> None:
        self.added.append(mark.name)


@pytest.mark.parametrize(("everything", "added"), [(False, ["skip"]), (True, [])])
def test_tests_with_real_programs_wait_for_all(everything: bool, added: list[str]) -> None:
    slow, fast = FakeItem(["real"]), FakeItem([])
    pytest_collection_modifyitems(FakeConfig(everything), [slow, fast])  # type: ignore[arg-type, list-item]  # fakes
    assert (slow.added, fast.added) == (added, [])
