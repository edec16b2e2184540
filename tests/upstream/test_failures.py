"""What a backend's refusal becomes: status, sentence, and nothing that a client must not see."""

import time

import pytest

from appliance.protocol.error_answers import error_body, error_headers
from appliance.protocol.errors import UpstreamFailed
from appliance.upstream.exchange import UpstreamAnswer
from appliance.upstream.failures import failure_from_answer, parse_json_object, redact


def failure(status, body=b"", retry_after=None):
    answer = UpstreamAnswer(status=status, content_type="", retry_after=retry_after, body=body, latency_s=0.1)
    return failure_from_answer(answer, upstream="gpu")


@pytest.mark.parametrize(
    ("upstream_status", "status", "kind"),
    [
        (400, 400, "invalid_request_error"),
        (404, 404, "invalid_request_error"),
        (413, 413, "invalid_request_error"),
        (422, 422, "invalid_request_error"),
        (429, 429, "rate_limit_error"),
        (401, 502, "upstream_error"),
        (403, 502, "upstream_error"),
        (409, 502, "upstream_error"),
        (500, 502, "upstream_error"),
        (503, 502, "upstream_error"),
        (201, 502, "upstream_error"),
    ],
)
def test_status_follows_whose_fault_it_is(upstream_status, status, kind):
    error = failure(upstream_status)
    assert (error.status, error.type) == (status, kind)
    assert error_body(error)["error"]["status"] == upstream_status
    assert error_body(error)["error"]["upstream"] == "gpu"
    assert error_body(error)["error"]["source"] == "upstream"


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7),
        (None, 5),
        ("soon", 5),
        ("0", 1),
        ("-3", 1),
        ("1e9", 120),
        ("nan", 5),
        ("Wed, 21 Oct 2026 07:28:00 GMT", 5),
    ],
)
def test_retry_after_is_bounded(header, seconds):
    error = failure(429, retry_after=header)
    assert error.retry_after_s == seconds
    assert error_headers(error)["Retry-After"] == str(seconds)


def test_only_429_says_when_to_retry():
    assert failure(503, retry_after="7").retry_after_s is None


@pytest.mark.parametrize(
    "body",
    [
        b'{"error":"no such thing"}',
        b'{"error":{"message":"no such thing","type":"x"}}',
        b'{"detail":"no such thing"}',
        b'{"detail":[{"loc":["body"],"msg":"no such thing","type":"value_error"}]}',
        b'{"error":"","detail":"no such thing","body":"","errors":""}',
        b'{"message":"no such thing"}',
        b'"no such thing"',
        b"no such thing",
        b"<html><head><style>p{}</style></head><body><p>no such thing</p></body></html>",
    ],
)
def test_sentence_is_found_in_every_shape(body):
    assert failure(500, body).message == "gpu answered 500: no such thing"


@pytest.mark.parametrize(
    "secret",
    [
        "Authorization: Bearer abcdef0123456789",
        '{"api_key": "s3cr3t-value"}',
        "token=hunter2hunter2",
        "sk-proj-abcdefghijklmnop",
        "/home/operator/webui/models/x.py",
        "C:\\\\Users\\\\me\\\\webui.py",
        "http://me:hunter2@10.0.0.1/x",
        "Traceback (most recent call last):\n  File \"/opt/x.py\", line 3, in <module>\nValueError: 's3cr3t-value'",
        "0123456789abcdef0123456789abcdef0123456789abcdef",
        "a\x00b\x1b[31mc\u202ed",
    ],
)
def test_body_and_message_are_redacted(secret):
    error = failure(500, ('{"detail": "it failed: ' + secret.replace('"', '\\"').replace("\n", "\\n") + '"}').encode())
    told = error.message + str(error.extra["body"])
    for part in ("abcdef0123", "s3cr3t", "hunter2", "sk-proj", "/home", "Users", "/opt", "\x00", "\x1b", "\u202e"):
        assert part not in told
    assert "it failed" in told


@pytest.mark.parametrize(
    "harmless", ["size must be 1024x1024 and/or 512x512", "use 3/4 of it", "model base-xl: 404 / not found"]
)
def test_harmless_words_are_left_alone(harmless):
    assert redact(harmless) == harmless


def test_body_is_at_most_2_kib_of_utf8():
    assert len(failure(500, "é".encode() * 100_000).extra["body"].encode()) <= 2048


@pytest.mark.parametrize(
    "nasty",
    [
        "/a" * 20_000,
        "a" * 40_000,
        '"token":' * 5_000,
        "<" * 40_000,
        "://" + "a" * 40_000,
        "/ " * 20_000,
        "a-" * 20_000,
        'File "' * 8000,
        "<script " * 5000,
        "C:\\" * 10000,
    ],
)
def test_redaction_takes_linear_time(nasty):
    started = time.process_time()
    failure(500, nasty.encode())
    assert time.process_time() - started < 1  # a backtracking pattern takes minutes here


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"5", b"{", b'{"a":"\xff"}', b"[" * 100_000, b'{"a":' * 100_000, b"{} {}"]
)
def test_what_is_not_one_json_object_is_502(body):
    with pytest.raises(UpstreamFailed) as caught:
        parse_json_object(body, upstream="gpu")
    assert caught.value.status == 502
