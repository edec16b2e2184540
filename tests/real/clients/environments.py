"""Where the client programs' pins are; the tests and the benches make their environments of them."""

from pathlib import Path

HERE = Path(__file__).parent
LITELLM_PINS = HERE / "litellm.txt"
LANGCHAIN_PINS = HERE / "langchain.txt"
