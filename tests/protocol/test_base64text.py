"""Base64 text: decoded exactly where encoding the bytes gives the very text again."""

import base64
import binascii

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.protocol.base64text import BadBase64, decode_base64, encode_base64


@given(st.binary(max_size=100))
def test_what_is_encoded_is_decoded(data):
    assert encode_base64(data) == base64.b64encode(data).decode()
    assert decode_base64(encode_base64(data)) == data


@given(st.text("AQgwBx+/=-_ \né", max_size=9) | st.text(max_size=9))
def test_text_is_decoded_where_it_is_the_one_text_of_its_bytes_and_refused_elsewhere(text):
    try:
        data = binascii.a2b_base64(text.encode("utf-8", "surrogatepass"), strict_mode=True)
    except binascii.Error:
        data = None
    if data is not None and base64.b64encode(data).decode() == text:
        assert decode_base64(text) == data
        return
    with pytest.raises(BadBase64):
        decode_base64(text)


@pytest.mark.parametrize(
    "text", ["QQ", "QUI", "-_-_", "AA-_", "QR==", "QUJ=", "QQ==QQ==", "AAA\n", "====", "\ud800AAA"]
)
def test_other_spellings_are_refused(text):
    with pytest.raises(BadBase64):
        decode_base64(text)
