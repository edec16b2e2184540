"""The mock: the same bytes for the same question on every machine, and valid XML for any prompt."""

import hashlib
import subprocess
import sys
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.backends.mock_images import draw_svg

SVG = "{http://www.w3.org/2000/svg}"
VECTOR = "31734d994cb5c1f897b3a3c429078030842d55dc72b3dfba8bcf0fb179711047"


def caption(data):
    return " ".join(text.text or "" for text in ET.fromstring(data).iter(SVG + "text"))


def test_same_input_is_the_same_bytes_in_another_process():
    code = "import hashlib;from appliance.backends.mock_images import draw_svg as d;print(hashlib.sha256(d('a cat',640,480)).hexdigest())"
    elsewhere = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONHASHSEED": "5", "LC_ALL": "C"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert elsewhere.stdout.strip() == hashlib.sha256(draw_svg("a cat", 640, 480)).hexdigest()


def test_bytes_are_what_they_always_were():
    assert hashlib.sha256(draw_svg("a cat", 640, 480)).hexdigest() == VECTOR


def test_only_the_stripped_first_400_characters_count():
    assert draw_svg("  " + "x" * 400 + "\n", 64, 64) == draw_svg("x" * 400 + "y" * 50, 64, 64)
    assert draw_svg("x" * 399 + "y", 64, 64) != draw_svg("x" * 400, 64, 64)


def test_each_part_of_the_question_matters():
    assert len({draw_svg("a", 64, 64), draw_svg("b", 64, 64), draw_svg("a", 65, 64), draw_svg("a", 64, 65)}) == 4


@given(st.text(max_size=450), st.integers(1, 3000), st.integers(1, 3000))
def test_any_prompt_is_valid_xml_of_the_size(prompt, width, height):
    root = ET.fromstring(draw_svg(prompt, width, height))
    assert (root.get("width"), root.get("height")) == (str(width), str(height))


@pytest.mark.parametrize("char", ["\x00", "\x0b", "\x1b", "\ufffe", "\uffff", "\ud800", "\x7f", "\x85", "\u2028"])
def test_character_that_xml_lacks_is_replaced(char):
    ET.fromstring(draw_svg(f"a {char} b", 64, 64))


def test_markup_stays_text():
    data = draw_svg('</text><script>alert("1")</script>&lt; ]]>', 2000, 400)
    assert caption(data) == '</text><script>alert("1")</script>&lt; ]]>'
    assert not list(ET.fromstring(data).iter(SVG + "script"))


def test_prompt_can_be_read_in_the_picture():
    prompt = "a lighthouse on a cliff at dusk, oil on canvas"
    assert caption(draw_svg(prompt, 1024, 1024)) == prompt
