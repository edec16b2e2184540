"""Commands: a line of text to words, as sh(1) would see them where it would not do more than that.

Nothing is expanded. What a shell would do with a character that is neither quoted nor escaped is refused with a reason
rather than passed on as text, so that a line never means something else here than its writer thought.
"""

import shlex

from appliance.toolbus.base import ToolFailed

_BLANK = " \t"
_ANYWHERE = {
    "|": "pipes", "&": "background runs and lists", ";": "lists of commands", "<": "redirections",
    ">": "redirections", "(": "subshells", ")": "subshells", "$": "variables and $(...)", "`": "command substitution",
    "*": "file name patterns", "?": "file name patterns", "[": "file name patterns", "\n": "lists of commands",
    "\r": "line breaks",
}  # fmt: skip
_AT_WORD_START = {"~": "home directories", "#": "comments", "!": "negation", "{": "groups", "}": "groups"}
_IN_DOUBLE_QUOTES = {"$": "variables and $(...)", "`": "command substitution"}


def split_command(text: str) -> tuple[str, ...]:
    """The words of a command. Raises ToolFailed (`command_refused`) for all that takes a shell."""
    _check(text)
    try:
        words = shlex.split(text, posix=True)
    except ValueError as error:
        raise _refused(f"it cannot be split ({str(error).lower()}): close every quote") from None
    if not words:
        raise _refused("it is empty: write a program and its arguments")
    return tuple(words)


def _check(text: str) -> None:
    quote = ""
    before = " "
    characters = iter(text)
    for character in characters:
        if character == "\0":
            raise _refused("it holds NUL")
        if quote == "'":
            quote = "" if character == "'" else quote
        elif character == "\\":
            _check_escaped(next(characters, ""), quote)
        elif quote:
            quote = "" if character == quote else quote
            _refuse_if(character, _IN_DOUBLE_QUOTES)
        elif character in "'\"":
            quote = character
        else:
            _refuse_if(character, _ANYWHERE)
            if before in _BLANK:
                _refuse_if(character, _AT_WORD_START)
        before = character


def _check_escaped(character: str, quote: str) -> None:
    if character in "\n\r\0":  # nothing, too: a backslash at the end
        raise _refused("a backslash must not end a line: write it in single quotes")
    if quote:
        _refuse_if(character, _IN_DOUBLE_QUOTES)


def _refuse_if(character: str, table: dict[str, str]) -> None:
    if character in table:
        raise _refused(
            f"{character!r} stands for {table[character]}, and no shell reads it: run one program, or write it in single quotes"
        )


def _refused(why: str) -> ToolFailed:
    return ToolFailed("command_refused", f"The command is refused: {why}.")
