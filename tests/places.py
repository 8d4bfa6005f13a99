"""Where the repository and the shared photos lie, and the type of the `likeness` fixture."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED = (REPOSITORY.parent / "shared" / "data").resolve()

Run = Callable[..., subprocess.CompletedProcess[str]]
