"""Defines the folders of the repository and of the shared photos, and whether `make fuzz` runs the tests."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED = (REPOSITORY.parent / "shared" / "data").resolve()
FUZZ = os.environ.get("HYPOTHESIS_PROFILE") == "free"

Run = Callable[..., subprocess.CompletedProcess[str]]
