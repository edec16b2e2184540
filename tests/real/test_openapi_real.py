"""schemathesis against a running gateway: it reads `/openapi.json` and looks for what the document does not say."""

import subprocess
from pathlib import Path

import pytest

from tests.process import TOKEN, start_gateway
from tests.real.venvs import CannotInstall, ensure_pinned

pytestmark = [pytest.mark.real, pytest.mark.usefixtures("program")]

PINS = Path(__file__).parent / "clients" / "schemathesis.txt"
EXAMPLES = 8  # for each of 23 operations and each phase: about a thousand requests
MAX_TIME_S = 30
END_S = 180.0
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "response_headers_conformance",
    "negative_data_rejection",
    "ignored_auth",
    "unsupported_method",
)
SETTINGS = {
    "MOCK_CHAT_SCRIPT": "builtin",
    "DEFAULT_BACKEND": "mock",
    "OLLAMA_BASE_URL": "",
    "MODEL_ALIASES_JSON": '{"aliases":{"default":"mock:mock","fast":"mock:mock"}}',
    "TOOLS_ALLOW_SYSTEM_INFO": "true",
}


def test_schemathesis_finds_nothing_that_the_document_does_not_say(tmp_path: Path) -> None:
    try:
        python = ensure_pinned(PINS)
    except CannotInstall as reason:
        pytest.skip(str(reason))
    with start_gateway(tmp_path, SETTINGS) as gateway:
        done = subprocess.run(
            [
                python,
                "-c",
                "from schemathesis.cli import schemathesis; schemathesis()",
                "run",
                f"{gateway.url}/openapi.json",
                f"--header=Authorization: Bearer {TOKEN}",
                f"--checks={','.join(CHECKS)}",
                f"--max-examples={EXAMPLES}",
                f"--max-time={MAX_TIME_S}",
                "--seed=1",
                "--request-timeout=20",
                "--suppress-health-check=all",
                "--warnings=off",
                "--no-color",
            ],
            env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=END_S,
            check=False,
        )
    assert done.returncode == 0, (done.stdout + done.stderr)[-8000:]
    assert "Tested: 23" in done.stdout
