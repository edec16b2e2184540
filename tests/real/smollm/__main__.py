"""`python -m tests.real.smollm`: prepare the server and its model, and say where they are."""

import sys

from tests.real.smollm import CannotInstall, ensure_smollm


def main() -> int:
    """0 when there is a server to start; the tests that want one say the reason again when they are skipped."""
    try:
        found = ensure_smollm()
    except CannotInstall as problem:
        print(f"no real language model: {problem}", file=sys.stderr)
        return 1
    print(f"real language server: {found.python} -m cyllama.llama.server\nits model: {found.model}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
