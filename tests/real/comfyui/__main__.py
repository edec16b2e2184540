"""`python -m tests.real.comfyui`: prepare the server and its weights, and say where they are."""

import sys

from tests.real.comfyui import CannotInstall, ensure_comfyui


def main() -> int:
    """0 when there is a server to start; the tests that want one say the reason again when they are skipped."""
    try:
        found = ensure_comfyui()
    except CannotInstall as problem:
        print(f"no real ComfyUI: {problem}", file=sys.stderr)
        return 1
    print(f"real ComfyUI: {found.python} {found.program / 'main.py'}\nits checkpoint: {found.checkpoint}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
