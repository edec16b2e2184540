"""Tails: the last characters of any bytes, in bounded memory."""

from hypothesis import given
from hypothesis import strategies as st

from appliance.toolbus.tails import Tail

PIECES = st.lists(st.binary(max_size=12) | st.text(max_size=6).map(lambda text: text.encode("utf-8", "replace")))


def tail_of(*pieces: bytes, keep: int) -> Tail:
    tail = Tail(keep)
    for piece in pieces:
        tail.add(piece)
    return tail


@given(PIECES, st.integers(0, 8))
def test_the_last_characters_are_kept_however_the_bytes_come(pieces: list[bytes], keep: int) -> None:
    tail = tail_of(*pieces, keep=keep)
    whole = b"".join(pieces)
    assert tail.total_bytes == len(whole)
    assert len(tail.text()) <= keep
    if not tail.is_cut():
        assert tail.text() == whole.decode("utf-8", "replace")


@given(st.text(max_size=40).filter(lambda text: text.isprintable()), st.integers(0, 8), st.integers(1, 7))
def test_of_text_the_very_last_characters_are_kept(text: str, keep: int, size: int) -> None:
    data = text.encode()
    tail = tail_of(*(data[at : at + size] for at in range(0, len(data), size)), keep=keep)
    assert tail.text() == (text[-keep:] if keep else "")
    assert tail.is_cut() == (len(text) > keep)


def test_a_character_that_lost_its_head_is_left_out() -> None:
    for text in ("é", "☃", "😀"):
        for rest in (b"", b"\xf0\x9f\x98", b"x"):
            tail = tail_of(text.encode() * 100 + rest, keep=3)
            assert "\ufffd" not in tail.text().removesuffix("\ufffd")
            assert len(tail.text()) == 3


def test_bytes_that_are_no_text_are_replaced() -> None:
    assert tail_of(b"a\xffb", keep=10).text() == "a\ufffdb"


def test_memory_stays_bounded() -> None:
    tail = Tail(1000)
    for _ in range(1000):
        tail.add(b"x" * 65536)
        assert len(tail._kept) <= 2 * 4000
    assert (tail.total_bytes, tail.text()) == (65_536_000, "x" * 1000)
