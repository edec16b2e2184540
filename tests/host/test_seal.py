"""The seal: what a build appends is what a check wants."""

import hashlib
from pathlib import Path

import pytest

from appliance.host.seal import SEAL_BYTES, BrokenSeal, check_seal
from tools.devtools.binary import seal


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    file = tmp_path / "appliance"
    file.write_bytes(bytes(range(256)) * 9000)
    seal(file)
    return file


def test_a_whole_file_passes_and_its_digest_is_that_of_sha256sum(sealed: Path) -> None:
    assert check_seal(sealed) == hashlib.sha256(sealed.read_bytes()).hexdigest()
    assert len(sealed.read_bytes()) == 256 * 9000 + SEAL_BYTES


@pytest.mark.parametrize("at", [0, 1_000_000, 256 * 9000 - 1, -SEAL_BYTES, -2])
def test_one_flipped_bit_anywhere_is_found(sealed: Path, at: int) -> None:
    data = bytearray(sealed.read_bytes())
    data[at] ^= 1
    sealed.write_bytes(data)
    with pytest.raises(BrokenSeal, match="fetch it again"):
        check_seal(sealed)


@pytest.mark.parametrize("kept", [0, 1, SEAL_BYTES, 5000, 256 * 9000, 256 * 9000 + SEAL_BYTES - 1])
def test_a_file_that_was_cut_is_found(sealed: Path, kept: int) -> None:
    sealed.write_bytes(sealed.read_bytes()[:kept])
    with pytest.raises(BrokenSeal):
        check_seal(sealed)


def test_something_else_is_no_executable(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("<html>" + "not found" * 20)
    with pytest.raises(BrokenSeal, match="no executable of the appliance"):
        check_seal(tmp_path / "page.html")
