"""The state machine, the line and the policies can be tested where there is neither wasmtime nor a server."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parent
PURE = ("execution/test_state.py", "execution/test_retry.py", "scheduling")
WITHOUT = """
import sys
for module in ("wasmtime", "grpc", "sqlite3", "psutil"):
    sys.modules[module] = None
import pytest
class FewExamples:
    def pytest_configure(self):
        from hypothesis import settings
        settings.register_profile("few", deadline=None, max_examples=5, stateful_step_count=10)
        settings.load_profile("few")
sys.exit(pytest.main(["--noconftest", "-q", "-p", "no:cacheprovider", *sys.argv[1:]], plugins=[FewExamples()]))
"""


def test_their_tests_pass_where_nothing_else_can_be_imported() -> None:
    command = [sys.executable, "-c", WITHOUT, *(str(TESTS / each) for each in PURE)]
    done = subprocess.run(command, cwd=TESTS.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
