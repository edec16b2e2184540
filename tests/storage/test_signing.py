"""Signed URLs: genuine, untouched and in time, or refused."""

import os
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import parse_qsl

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from appliance.storage.atomic import UnsafePath
from appliance.storage.signing import UrlSigner, load_or_create_key

NOW_S = 1_700_000_000.25
NAME = "0" * 64 + ".png"
KEY = bytes(range(32))


def sign(name: str = NAME, now: float = NOW_S, key: bytes = KEY) -> tuple[str, str]:
    query = dict(parse_qsl(UrlSigner(key, 900).sign(name, now), strict_parsing=True))
    assert list(query) == ["exp", "sig"]
    return query["exp"], query["sig"]


def check(name: str, exp: str, sig: str, now: float = NOW_S) -> str:
    return UrlSigner(KEY, 900).check(name, exp, sig, now)


def test_signed_name_is_good_for_its_time_and_then_expired() -> None:
    exp, sig = sign()
    assert check(NAME, exp, sig) == "ok"
    assert check(NAME, exp, sig, NOW_S + 900) == "ok"
    assert check(NAME, exp, sig, NOW_S + 901) == "expired"


def test_signature_of_an_expired_url_is_still_checked() -> None:
    exp, sig = sign()
    assert check("1" + NAME[1:], exp, sig, NOW_S + 9000) == "invalid"


def test_signature_is_the_same_in_every_version_of_this_program() -> None:
    # HMAC-SHA256 of "appliance image url v1\n3\nabc\n1700000900" with the key 00 01 .. 1f
    assert (
        UrlSigner(KEY, 900).sign("abc", 1_700_000_000)
        == "exp=1700000900&sig=2RfxtpfrxIEkArufV7KWYDjj83C0PPOdTHWnPwWCgtM"
    )


def test_signature_needs_no_escaping_in_a_url() -> None:
    for second in range(50):
        _, sig = sign(now=NOW_S + second)
        assert len(sig) == 43
        assert sig.replace("-", "").replace("_", "").isalnum()


@given(st.text(), st.text())
def test_signature_of_one_name_opens_no_other(name: str, other: str) -> None:
    assume(name != other)
    exp, sig = sign(name)
    assert check(name, exp, sig) == "ok"
    assert check(other, exp, sig) == "invalid"


@given(st.integers(0, 42), st.characters())
def test_signature_with_any_character_changed_is_invalid(position: int, character: str) -> None:
    exp, sig = sign()
    changed = sig[:position] + character + sig[position + 1 :]
    assume(changed != sig)
    assert check(NAME, exp, changed) == "invalid"


@given(st.text())
def test_any_other_signature_is_invalid(sig: str) -> None:
    exp, genuine = sign()
    assume(sig != genuine)
    assert check(NAME, exp, sig) == "invalid"


@given(st.text() | st.integers().map(str))
def test_any_other_expiry_is_invalid(other: str) -> None:
    exp, sig = sign()
    assume(other != exp)
    assert check(NAME, other, sig) == "invalid"


@pytest.mark.parametrize("spelling", ["+{}", " {}", "{} ", "0{}", "{}.0", "{}\n", "1_{}", "-{}", ""])
def test_other_spellings_of_the_expiry_are_invalid(spelling: str) -> None:
    exp, sig = sign()
    assert check(NAME, spelling.format(exp), sig) == "invalid"


def test_expiry_in_foreign_digits_is_invalid() -> None:
    exp, sig = sign()
    arabic = exp.translate({ord("0") + digit: 0x0660 + digit for digit in range(10)})
    assert check(NAME, arabic, sig) == "invalid"


def test_endless_expiry_is_refused_before_it_is_parsed() -> None:
    assert check(NAME, "9" * 100_000, "x") == "invalid"


def test_name_and_expiry_cannot_trade_characters() -> None:
    signer = UrlSigner(KEY, 0)
    _, sig = signer.sign("a1", 234).split("&sig=")
    assert signer.check("a", "1234", sig, 0) == "invalid"
    _, sig = signer.sign("a\n1", 234).split("&sig=")
    assert signer.check("a", "1234", sig, 0) == "invalid"


def test_another_key_signs_otherwise() -> None:
    exp, sig = sign(key=bytes(32))
    assert check(NAME, exp, sig) == "invalid"


def test_key_of_a_wrong_length_is_refused_and_none_is_ever_shown() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        UrlSigner(b"short", 900)
    assert repr(UrlSigner(KEY, 900)) == "<UrlSigner ttl_s=900>"


def test_key_is_made_once_and_private(tmp_path: Path) -> None:
    path = tmp_path / "url_signing.key"
    key = load_or_create_key(path)
    assert len(key) == 32
    assert load_or_create_key(path) == key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["url_signing.key"]


@pytest.mark.parametrize("content", [b"", b"x" * 31, b"x" * 33])
def test_torn_key_is_replaced(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "url_signing.key"
    path.touch(mode=0o600)
    path.write_bytes(content)
    key = load_or_create_key(path)
    assert path.read_bytes() == key
    assert len(key) == 32


def test_key_that_others_could_read_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "url_signing.key"
    path.write_bytes(KEY)
    path.chmod(0o640)
    assert load_or_create_key(path) != KEY
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_link_or_directory_in_place_of_the_key_is_refused(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(KEY)
    (tmp_path / "link").symlink_to(tmp_path / "target")
    (tmp_path / "directory").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UnsafePath, match="symbolic link"):
        load_or_create_key(tmp_path / "link")
    for name in ("directory", "pipe"):
        with pytest.raises(UnsafePath, match="not a file of this user"):
            load_or_create_key(tmp_path / name)


@pytest.mark.parametrize("content", [None, b"torn"])
def test_processes_that_start_at_once_get_the_same_key(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "url_signing.key"
    if content is not None:
        path.write_bytes(content)
    start = threading.Barrier(8)

    def load(_number: int) -> bytes:  # the lock belongs to an open file: threads stand for processes
        start.wait()
        return load_or_create_key(path)

    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(load, range(8))) == {path.read_bytes()}
