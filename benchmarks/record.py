"""Prints the result of a benchmark as JSON on the last line; --keep also writes benchmarks/results/<name>.json."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
# Python searches the folder of the script before all other folders. A file curate.py there would hide the package of
# that name. Python finds an editable install only after all folders.
sys.path[:] = [str(HERE.parent), *(entry for entry in sys.path if Path(entry).resolve() != HERE), str(HERE)]


def machine() -> str:
    """Returns the processor, the number of cores and the memory as a text."""
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{model}, {os.cpu_count()} cores, {memory:.0f} GiB"


def commit() -> str:
    """Returns the current commit, with a mark if the working tree differs from it."""
    git = ["git", "-C", str(HERE)]
    found = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=False)
    changed = subprocess.run(
        [*git, "status", "--porcelain", "-uno", "--", ":/", ":!/benchmarks/results"],
        capture_output=True,
        text=True,
        check=False,
    )
    return (found.stdout.strip() or "none") + ("+changes" if changed.stdout.strip() else "")


def finish(name: str, result: dict[str, Any], keep: bool) -> None:
    """Prints `result` as the last line; with `keep`, also writes the result with date, commit and machine."""
    if keep:
        record = {
            "date": datetime.now(UTC).date().isoformat(),
            "commit": commit(),
            "machine": machine(),
            "result": result,
        }
        path = HERE / "results" / f"{name}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(result))
