"""The script of the scripted model: read strictly, each mistake with its place."""

import json
import re
from pathlib import Path

import pytest

from appliance.config.mock_demo import demo_script
from appliance.config.mock_script import Answer, ScriptError, When, load_mock_script, parse_mock_script

DOCUMENT = (Path(__file__).parents[2] / "docs" / "mock_chat.md").read_text(encoding="utf-8")
LAST = {"answer": {"text": "You said: {{input}}"}}


def script(*rules, **fields):
    return json.dumps({"rules": [*rules, LAST], **fields}).encode()


def test_builtin_script_offers_one_model():
    assert demo_script().names == ("mock",)


def test_models_are_those_offered_and_those_that_rules_are_for():
    parsed = parse_mock_script(script({"when": {"model": "b"}, "answer": {}}, models=["a", "*", "a"]))
    assert parsed.names == ("a", "b")
    assert parsed.serves("anything")
    assert not parse_mock_script(script(models=["a"])).serves("b")
    assert parse_mock_script(script(models=["*"])).names == ("mock",)


def answer(**fields):
    return {"when": {"equals": "x"}, "answer": fields}


@pytest.mark.parametrize(
    ("data", "place"),
    [
        (script(answer(), answer(tool_calls=[{"name": 3}])), "rules[1].answer.tool_calls[0].name: "),
        (script(answer(tool_calls=[{"name": ""}])), "rules[0].answer.tool_calls[0].name: "),
        (script(answer(text="{{inptu}}")), "rules[0].answer.text: {{inptu}} is no placeholder"),
        (script(answer(tool_calls=[{"name": "f", "arguments": {"a": ["{{x}}"]}}])), "rules[0].answer.tool_calls[0]"),
        (script(answer(fail={"status": 200})), "rules[0].answer.fail.status: "),
        (script(answer(chunk_delay_s=-1)), "rules[0].answer.chunk_delay_s: "),
        (script(answer(chunk_chars=0)), "rules[0].answer.chunk_chars: "),
        (script(answer(delay=1)), "rules[0].answer.delay: is no field"),
        (script({"when": {"regex": "("}, "answer": {}}), "rules[0].when.regex: is no regular expression"),
        (script({"when": {"turn": "1"}, "answer": {}}), "rules[0].when.turn: "),
        (script({"when": {"contains": ""}, "answer": {}}), "rules[0].when.contains: "),
        (script({"when": {}}), "rules[0].answer: "),
        (script(LAST), "rules[0] takes every request"),
        (script(models=[]), "models: "),
        (script(model="x"), "model: is no field"),
        (b'{"rules":[]}', "rules: "),
        (b'{"rules":[{"when":{"turn":1},"answer":{}}]}', "the last rule has conditions"),
        (b"{}", "rules: "),
        (b"[]", "one JSON object"),
        (b"{", "the script is not valid JSON"),
        (b'{"rules":[],"rules":[]}', "occurs twice"),
        (b"\xff", "not UTF-8"),
    ],
)
def test_mistake_is_named_with_its_place(data, place):
    with pytest.raises(ScriptError) as caught:
        parse_mock_script(data)
    assert place in str(caught.value)
    assert "\n" not in str(caught.value)


def test_file_is_read_and_its_mistakes_name_it(tmp_path):
    good = tmp_path / "good.json"
    good.write_bytes(script(models=["a"]))
    assert load_mock_script(good).names == ("a",)
    bad = tmp_path / "bad.json"
    bad.write_text("{}")
    for path, words in (
        (bad, "bad.json: rules: "),
        (tmp_path / "none.json", "cannot be read"),
        (tmp_path, "cannot be"),
    ):
        with pytest.raises(ScriptError) as caught:
            load_mock_script(path)
        assert words in str(caught.value)


def test_huge_file_is_refused(tmp_path):
    huge = tmp_path / "huge.json"
    huge.write_bytes(b" " * (5 << 20))
    with pytest.raises(ScriptError, match="larger"):
        load_mock_script(huge)


def test_documented_script_is_a_script():
    example = re.search(r"```json\n(.*?)```", DOCUMENT, re.DOTALL)
    assert len(parse_mock_script(example[1].encode()).rules) == 4


@pytest.mark.parametrize(("section", "fields"), [("when", When.model_fields), ("answer", Answer.model_fields)])
def test_every_field_is_documented_and_no_other(section, fields):
    table = DOCUMENT.split(f"## {section}\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (`.*?`) \|", table, re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == set(fields)
