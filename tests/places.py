"""Where the repository and the shared photos lie, whether `make fuzz` runs, and the type of the `likeness` fixture."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED = (REPOSITORY.parent / "shared" / "data").resolve()
FUZZ = os.environ.get("HYPOTHESIS_PROFILE") == "free"

Run = Callable[..., subprocess.CompletedProcess[str]]
