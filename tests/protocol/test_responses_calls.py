"""Tool calls in a streamed response: pieces find their call, whatever numbers, names and ids a server gives them."""

from typing import Any

from tests.protocol.responses_samples import call_piece, delta, read_events, stream_of


def calls_of(*chunks: dict[str, Any]) -> list[tuple[str, str, str]]:
    output = read_events(stream_of(*chunks, delta("tool_calls")))[-1]["response"]["output"]
    return [(item["call_id"], item["name"], item["arguments"]) for item in output]


def test_pieces_of_two_calls_may_alternate() -> None:
    assert calls_of(
        delta(tool_calls=[call_piece(0, id="a", name="f", arguments='{"x'), call_piece(1, id="b", name="g")]),
        delta(tool_calls=[call_piece(1, arguments="{"), call_piece(0, arguments='":1}')]),
        delta(tool_calls=[call_piece(1, arguments="}")]),
    ) == [("a", "f", '{"x":1}'), ("b", "g", "{}")]


def test_a_server_that_numbers_all_its_calls_0_is_understood() -> None:
    assert calls_of(
        delta(tool_calls=[call_piece(0, id="a", name="f", arguments="1")]),
        delta(tool_calls=[call_piece(0, id="b", name="g", arguments="2")]),
    ) == [("a", "f", "1"), ("b", "g", "2")]


def test_a_server_that_numbers_no_calls_is_understood() -> None:
    first = {"function": {"name": "f", "arguments": {"x": 1}}}
    second = {"function": {"name": "f", "arguments": {}}}
    made = calls_of(delta(tool_calls=[first, second]))
    assert [(name, arguments) for _, name, arguments in made] == [("f", '{"x":1}'), ("f", "{}")]


def test_a_name_that_comes_late_or_again_opens_its_call_once() -> None:
    assert calls_of(
        delta(tool_calls=[call_piece(0, id="a", arguments="{")]),
        delta(tool_calls=[call_piece(0, name="f")]),
        delta(tool_calls=[call_piece(0, id="a", name="f", arguments="}")]),
    ) == [("a", "f", "{}")]


def test_arguments_that_nobody_named_are_still_shown() -> None:
    made = calls_of(delta(tool_calls=[call_piece(0, id="a", arguments="{}"), call_piece(1, id="b")]))
    assert made == [("a", "", "{}")]


def test_calls_without_an_id_or_with_the_same_one_get_ids_of_their_own() -> None:
    made = calls_of(
        delta(tool_calls=[call_piece(0, id="same", name="f"), call_piece(1, id="same", name="f")]),
        delta(tool_calls=[call_piece(2, name="f"), call_piece(3, id="", name="f")]),
    )
    ids = [call_id for call_id, _, _ in made]
    assert ids[0] == "same"
    assert len(set(ids)) == 4
    assert all(call_id.startswith("toolcall-") for call_id in ids[1:])


def piece(**fields: Any) -> dict[str, Any]:
    """A piece of a call that has no number."""
    return {name: value for name, value in call_piece(0, **fields).items() if name != "index"}


def test_pieces_without_a_number_go_to_the_last_call() -> None:
    assert calls_of(
        delta(tool_calls=[piece(id="a", arguments="{"), piece(name="f", arguments='"x"')]),
        delta(tool_calls=[piece(arguments=":1"), piece(id="a", name="f", arguments="}")]),
    ) == [("a", "f", '{"x":1}')]


def test_a_name_that_is_repeated_in_every_piece_is_one_call() -> None:
    pieces = [call_piece(0, name="f", arguments=cut) for cut in "{}"]
    assert [made[1:] for made in calls_of(delta(tool_calls=pieces))] == [("f", "{}")]


def test_an_id_that_comes_late_is_that_of_its_call_and_stays_it() -> None:
    pieces = [
        call_piece(0, arguments="{"),
        call_piece(0, id="a"),
        call_piece(0, arguments="}"),
        call_piece(0, name="f"),
    ]
    assert calls_of(delta(tool_calls=pieces)) == [("a", "f", "{}")]


def test_a_number_that_is_none_is_as_good_as_no_number() -> None:
    pieces = [{"index": [], "function": {"name": "f", "arguments": "1"}}]
    assert [made[1:] for made in calls_of(delta(tool_calls=pieces))] == [("f", "1")]
