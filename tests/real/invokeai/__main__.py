"""`python -m tests.real.invokeai`: prepare the server and its weights, and say where they are."""

import sys

from tests.real.invokeai.build import ensure_invokeai
from tests.real.venvs import CannotInstall


def main() -> int:
    """0 when there is a server to start; the tests that want one say the reason again when they are skipped."""
    try:
        server = ensure_invokeai()
    except CannotInstall as problem:
        print(f"no real InvokeAI: {problem}", file=sys.stderr)
        return 1
    print(f"real InvokeAI: {server.python}\nits models: {server.models}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
