"""`python -m tests.real.sdserver`: prepare the server and its weights, and say where they are."""

import sys

from tests.real.sdserver.build import CannotBuild, ensure_sd_server


def main() -> int:
    """0 when there is a server to start; the tests that want one say the reason again when they are skipped."""
    try:
        server = ensure_sd_server()
    except CannotBuild as problem:
        print(f"no real image server: {problem}", file=sys.stderr)
        return 1
    print(f"real image server: {server.program}\nits weights: {server.weights}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
