"""Arguments that several programs take, in argparse's way."""

import argparse

from appliance.verification.http import check_base_url


def base_url(text: str) -> str:
    """An address, without its trailing slash. Raises ArgumentTypeError."""
    try:
        return check_base_url(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
