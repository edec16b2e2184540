"""Configuration errors: where the mistake is, what is wrong, what to write. Light: every command may import it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mistake:
    """One mistake. `where`: a variable, or `file:line`. `message`: one line that holds no secret."""

    where: str
    message: str

    def __str__(self) -> str:
        return f"{self.where}: {self.message}"


class ConfigError(Exception):
    """A configuration that must not start, with all its mistakes that could be told apart."""

    def __init__(self, mistakes: tuple[Mistake, ...]) -> None:
        super().__init__("; ".join(map(str, mistakes)))
        self.mistakes = mistakes

    @property
    def where(self) -> str:
        return self.mistakes[0].where

    @property
    def message(self) -> str:
        return self.mistakes[0].message

    def one_line(self) -> str:
        """The first mistake, and how many more there are."""
        more = len(self.mistakes) - 1
        hint = f" (and {more} more: see `appliance config check`)" if more else ""
        return f"{self.mistakes[0]}{hint}"


@dataclass(frozen=True, slots=True)
class Findings:
    """What was found while a configuration was read: mistakes stop the start, warnings are only said."""

    mistakes: list[Mistake]
    warnings: list[str]

    @classmethod
    def none(cls) -> "Findings":
        return cls([], [])

    def refuse(self, where: str, message: str) -> None:
        self.mistakes.append(Mistake(_one_line(where), _one_line(message)))

    def warn(self, where: str, message: str) -> None:
        self.warnings.append(f"{_one_line(where)}: {_one_line(message)}")

    def stop(self) -> None:
        """Raises ConfigError if there was a mistake."""
        if self.mistakes:
            raise ConfigError(tuple(self.mistakes))


def _one_line(text: str) -> str:
    """Paths and parsers' messages may hold line breaks and control characters: none reaches a terminal or a log."""
    return "".join(character if character.isprintable() else "?" for character in text)
