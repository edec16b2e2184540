"""verify_images: does a running gateway draw, hand out and refuse pictures as the contract says?"""

import argparse
import os
import re
import sys
from collections.abc import Mapping, Sequence
from functools import partial

from appliance.verification.flags import base_url
from appliance.verification.http import Exchange, Gateway, open_exchange
from appliance.verification.image_checks import ImageChecks
from appliance.verification.image_servers import check_a1111, check_openai_images
from appliance.verification.report import Check, Line, run_checks, stop_unreachable
from appliance.verification.tokens import find_token, is_token

EXIT_OK = 0
EXIT_ERROR = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as a shell says it

DEFAULT_BASE_URL = "http://127.0.0.1:8800"
DEFAULT_TIMEOUT_S = 180.0  # IMAGES_HTTP_TIMEOUT_SEC is 120 s: the gateway gives up first, and says why


def main(argv: Sequence[str], environ: Mapping[str, str] = os.environ, exchange: Exchange | None = None) -> int:
    """Check, print a report, and return the exit code: 0 fine, 2 on an error, 130 interrupted."""
    try:
        options = make_parser().parse_args(argv)
    except SystemExit as stop:  # argparse has printed its help or what is wrong
        return EXIT_OK if stop.code == 0 else EXIT_ERROR
    token = find_token(options.token, environ, options.gateway_base_url)
    if token is None:
        print("error: no token: give --token, or set GATEWAY_BEARER_TOKEN", file=sys.stderr)
        return EXIT_ERROR
    if not is_token(token):
        print(
            "error: the token holds blanks or characters beyond ASCII: give it as the gateway has it", file=sys.stderr
        )
        return EXIT_ERROR
    carry = exchange or open_exchange(insecure=options.insecure, timeout_s=options.timeout)
    try:
        return _verify(options, Gateway(options.gateway_base_url, token, stop_unreachable(carry)), carry)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED


def _verify(options: argparse.Namespace, gateway: Gateway, carry: Exchange) -> int:
    def say(line: Line) -> None:
        if not options.json:
            print(line, flush=True)

    report = run_checks([*server_checks(options, carry), *gateway_checks(gateway, options.size)], say)
    print(report.as_json() if options.json else report.summary())
    return EXIT_OK if report.ok else EXIT_ERROR


def gateway_checks(gateway: Gateway, size: str) -> list[tuple[str, Check]]:
    """The checks of the gateway, in order."""
    checks = ImageChecks(gateway, size=size)
    doubled = b'{"prompt":"a","prompt":"b"}'
    return [
        ("health_get", checks.health),
        ("token_required", checks.token_is_required),
        ("images_url", checks.url),
        ("image_fetch_signed", checks.fetch),
        ("image_fetch_token", checks.fetch_with_token),
        ("image_signature", checks.signature),
        ("images_b64_json", checks.b64_json),
        ("images_deterministic", checks.same_prompt_same_picture),
        ("refuse_n", partial(checks.refuse, {"prompt": "a", "n": 5}, 400)),
        ("refuse_prompt", partial(checks.refuse, {"prompt": "  "}, 400)),
        ("refuse_size", partial(checks.refuse, {"prompt": "a", "size": "0x64"}, 400)),
        ("refuse_format", partial(checks.refuse, {"prompt": "a", "response_format": "gif"}, 400)),
        ("refuse_json", partial(checks.refuse, b'{"prompt":', 400)),
        ("refuse_doubled_key", partial(checks.refuse, doubled, 400)),
        ("refuse_content_type", partial(checks.refuse, b"prompt=a", 415, content_type="text/plain")),
        ("slots_back", checks.slots_are_back),
    ]


def server_checks(options: argparse.Namespace, exchange: Exchange) -> list[tuple[str, Check]]:
    """The checks of image servers that were named. They come first: the gateway may depend on them."""
    checks: list[tuple[str, Check]] = []
    if options.also_check_a1111:
        checks.append(("a1111_txt2img", partial(check_a1111, exchange, options.also_check_a1111)))
    if options.also_check_openai_images:
        url, model = options.also_check_openai_images, options.openai_images_model
        checks.append(("openai_images", partial(check_openai_images, exchange, url, model)))
    return checks


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="verify_images",
        description="Check the images of a running gateway. Exit: 0 fine, 2 error, 130 interrupted.",
    )
    add = parser.add_argument
    add("--gateway-base-url", type=base_url, default=DEFAULT_BASE_URL, metavar="URL", help="default: %(default)s")
    add("--token", help="default: GATEWAY_BEARER_TOKEN, else the generated token file of a local gateway")
    add("--insecure", action="store_true", help="do not check TLS certificates")
    add("--also-check-a1111", type=base_url, metavar="URL", help="also draw on this A1111 server, past the gateway")
    add("--also-check-openai-images", type=base_url, metavar="URL", help="also draw on this OpenAI-style server")
    add("--openai-images-model", metavar="NAME", help="model to ask that server for; default: none")
    add("--size", type=_size, default="64x64", metavar="WxH", help="size of the pictures; default: %(default)s")
    add("--timeout", type=float, default=DEFAULT_TIMEOUT_S, metavar="S", help="longest silence; default: %(default)g s")
    add("--json", action="store_true", help="print one JSON object instead of lines")
    return parser


def _size(text: str) -> str:
    if re.fullmatch(r"[1-9]\d{0,4}x[1-9]\d{0,4}", text) is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no size: write WIDTHxHEIGHT, such as 64x64")
    return text
