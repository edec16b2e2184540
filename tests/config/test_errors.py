"""Mistakes: one line each, whatever a path or a parser puts into them."""

from appliance.config.errors import ConfigError, Findings, Mistake


def test_a_line_break_in_a_path_does_not_break_the_line() -> None:
    findings = Findings.none()
    findings.refuse("/a\nb\x1b[31m", "is\rwrong")
    findings.warn("/a\nb", "is\todd")
    assert findings.mistakes == [Mistake("/a?b?[31m", "is?wrong")]
    assert findings.warnings == ["/a?b: is?odd"]


def test_the_first_mistake_stands_for_all() -> None:
    one = ConfigError((Mistake("A", "is wrong"),))
    two = ConfigError((Mistake("A", "is wrong"), Mistake("B", "too")))
    assert (one.where, one.message, one.one_line()) == ("A", "is wrong", "A: is wrong")
    assert two.one_line() == "A: is wrong (and 1 more: see `appliance config check`)"
