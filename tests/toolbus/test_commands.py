"""Commands: what is accepted means what it means to sh, and what sh would do more for is refused."""

import subprocess
import tempfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.toolbus.base import ToolFailed
from appliance.toolbus.commands import split_command

# Dense in what matters: quotes, escapes, blanks, and every character that a shell acts on.
TEXTS = st.text(st.sampled_from("ab \t'\"\\|&;<>()$`*?[]{}~#!=,\n\r^%é-/."), max_size=14)


@settings(deadline=None, max_examples=400)  # a process each
@given(TEXTS)
def test_what_is_accepted_is_what_sh_hands_to_a_program(text: str) -> None:
    try:
        words = split_command(text)
    except ToolFailed as failure:
        assert failure.kind == "command_refused"  # noqa: PT017 -- most are refused
        return
    with tempfile.TemporaryDirectory() as empty:
        script = f"printf '%s\\0' {text}"
        shell = subprocess.run(["/bin/sh", "-c", script], cwd=empty, capture_output=True, check=True)
    assert tuple(shell.stdout.decode().split("\0")[:-1]) == words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ls -l", ("ls", "-l")),
        ("  ls\t-l  ", ("ls", "-l")),
        ("grep 'a | b; $c > d' f", ("grep", "a | b; $c > d", "f")),
        ("echo \"a * b\" ''", ("echo", "a * b", "")),
        (r"echo \* \$x a\ b", ("echo", "*", "$x", "a b")),
        ("git show HEAD~1", ("git", "show", "HEAD~1")),
        ("git show HEAD^{}", ("git", "show", "HEAD^{}")),
        ("a#b c=~/d", ("a#b", "c=~/d")),
        ("echo é☃", ("echo", "é☃")),
    ],
)
def test_words_are_split_at_blanks_and_unquoted(text: str, words: tuple[str, ...]) -> None:
    assert split_command(text) == words


@pytest.mark.parametrize(
    "text",
    ["a | b", "a && b", "a & b", "a; b", "a > f", "a >> f", "a < f", "a 2>&1", "(a)", "a $(b)", "a `b`", "a $HOME",
     'a "$HOME"', 'a "`b`"', r'a "\$b"', "a *", "a ?", "a [b]", "a\nb", "a \\\nb", "a\r\nb", "~/a", "a ~", "# a", "a #b",
     "! a", "{ a", "a 'b", 'a "b', "a \\", "", "  ", "a\0b", "a 'b\0'", "a <(b)", "a $'b'", "a | \\\nb", '"a\\\nb"'],
)  # fmt: skip
def test_what_takes_a_shell_is_refused(text: str) -> None:
    with pytest.raises(ToolFailed) as caught:
        split_command(text)
    assert caught.value.kind == "command_refused"
    assert "The command is refused" in caught.value.message
