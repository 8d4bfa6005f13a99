"""How a benchmark ends: the result as JSON on the last line, and with --keep as benchmarks/results/<name>.json."""

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
# Python looks for modules beside the script first, where curate.py would be taken for the package of that name, and for
# an editable install only after every folder
sys.path[:] = [str(HERE.parent), *(entry for entry in sys.path if Path(entry).resolve() != HERE), str(HERE)]


def machine() -> str:
    """Processor, cores and memory, in words."""
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{model}, {os.cpu_count()} cores, {memory:.0f} GiB"


def commit() -> str:
    """The commit this ran on, marked where the working tree differs from it."""
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
    """Print `result` as the last line; with `keep`, also write it with date, commit and machine."""
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
