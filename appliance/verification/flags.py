"""Flags that several of these programs have, read and worded alike."""

import argparse

from appliance.verification.http import check_base_url


def base_url(text: str) -> str:
    """The `type` of a flag that takes a gateway's address."""
    try:
        return check_base_url(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def add_gateway_flags(parser: argparse.ArgumentParser, *, base_url_help: str) -> None:
    """Which gateway, and how one comes in."""
    add = parser.add_argument
    add("--base-url", type=base_url, metavar="URL", help=base_url_help)
    add("--obs-url", type=base_url, metavar="URL", help="its observability listener, which needs no token")
    add("--token", help="default: GATEWAY_BEARER_TOKEN, else the generated token file of a local gateway")
    add("--insecure", action="store_true", help="do not check TLS certificates")
