"""`serve.py --root FOLDER`: InvokeAI as its wheel has it, run by its own Python."""

import sys

import operators_of_torchvision  # noqa: F401 - before anything imports torchvision

# isort: split
from invokeai.app.run_app import run_app

if __name__ == "__main__":
    sys.argv[0] = "invokeai-web"
    run_app()
