"""What several test files need: the shared photos, where they are, and a command line run as a user runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.places import SHARED, Run


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real photos beside the repository; the test is skipped where they are missing."""
    if not SHARED.is_dir():
        pytest.skip(f"needs {SHARED}")
    return SHARED


@pytest.fixture
def likeness() -> Run:
    """Run a command line in a process of its own: `likeness("manifest", "show", path)`."""

    def run(*words: object, timeout: float = 600) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "COLUMNS": "200", "OMP_NUM_THREADS": "1"}
        environment.pop("LIKENESS_DEBUG", None)
        command = [sys.executable, "-m", "likeness", *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=timeout, check=False)

    return run
