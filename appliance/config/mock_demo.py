"""The builtin script: what the scripted model says on a fresh box. A literal, so that freezing sees it."""

from functools import cache
from typing import Any

from appliance.config.mock_script import MockScript, parse_mock_script
from appliance.protocol.canonical import compact_json

_HELP = (
    "I am **mock**, the scripted model of this gateway: there is no neural network behind me, and no GPU is used. "
    "I am here so that chat, tools and agents can be tried before a real model is connected.\n\n"
    "Things to ask me:\n\n"
    "- `use the tool` calls a tool that you offer me\n"
    "- `think about cats` shows reasoning before the answer\n"
    "- `tell me a long story` streams for a while\n"
    "- `answer slowly` takes its time for every word\n"
    "- `fail` and `break off` show what errors look like\n\n"
    "Anything else I repeat. Connect a real model with OLLAMA_BASE_URL, or with a backends file."
)

_STORY = (
    "Once upon a time there was a small lighthouse on a long coast. Every evening it lit its lamp, counted the ships, "
    "and wrote their names into a book. Nobody had ever asked to see the book, but every line of it was true.\n\n"
)

_RULES: list[dict[str, Any]] = [
    {
        "when": {"tools": True, "tool_results": 0, "must_call": True},
        "answer": {"tool_calls": [{"name": "{{tool}}", "arguments": "auto"}]},
    },
    {
        "when": {"tools": True, "tool_results": 0, "regex": r"\b(use|call|try|run)\b.{0,40}\btools?\b"},
        "answer": {"tool_calls": [{"name": "{{tool}}", "arguments": "auto"}]},
    },
    {
        "when": {"tools": False, "tool_results": 0, "regex": r"\b(use|call|try|run)\b.{0,40}\btools?\b"},
        "answer": {"text": "You offered me no tools. Send some in `tools`, and I will call the first."},
    },
    {
        "when": {"response_format": "json_object"},
        "answer": {"text": '{"model":{{model|json}},"input":{{input|json}}}'},
    },
    {
        "when": {"after_tool": "*"},
        "answer": {"text": "The tool answered: {{tool_result}}"},
    },
    {
        "when": {"regex": r"\bthink(ing)?\b|\breason(ing)?\b"},
        "answer": {
            "reasoning": "They ask: {{input}}. I have no mind to make up. A true answer says so, and stays short.",
            "text": "I thought about it, as far as a script can: the honest answer is that I only repeat what I read.",
        },
    },
    {
        "when": {"regex": r"\b(long|story|stream)\b"},
        "answer": {"text": _STORY, "repeat": 12, "chunk_delay_s": 0.02},
    },
    {
        "when": {"regex": r"\bslow(ly)?\b"},
        "answer": {"text": "One word after the other, without any hurry.", "chunk_delay_s": 0.5},
    },
    {
        "when": {"regex": r"^\W*fail\W*$"},
        "answer": {"fail": {"status": 500, "message": "the script says: fail"}},
    },
    {
        "when": {"regex": r"^\W*break off\W*$"},
        "answer": {"text": "This sentence will not be", "break_after_chunks": 5, "chunk_delay_s": 0.1},
    },
    {
        "when": {"regex": r"^\W*$|^\W*(hi|hello|hey|hallo|help|who are you|what can you do|test)\b"},
        "answer": {"text": _HELP, "chunk_delay_s": 0.01},
    },
    {"answer": {"text": "You said: {{input}}"}},
]


@cache
def demo_script() -> MockScript:
    """The builtin script, read when the first client asks: most boxes have a real model."""
    return parse_mock_script(compact_json({"models": ["mock"], "rules": _RULES}))
