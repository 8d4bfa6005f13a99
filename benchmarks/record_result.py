"""Prints the result of a benchmark as JSON, and keeps it in benchmarks/results on request."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent


def record_result(name: str, result: dict[str, Any], keep: bool) -> dict[str, Any]:
    """Prints `result` as the last line, and returns it with the date, the commit and the machine.

    With `keep`, also writes the returned dict to benchmarks/results/NAME.json.
    """
    record = {
        "date": datetime.now(UTC).date().isoformat(),
        "commit": read_commit(),
        "machine": describe_machine(),
        "result": result,
    }
    if keep:
        path = HERE / "results" / f"{name}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(result))
    return record


def describe_machine() -> str:
    """Returns the processor, the number of cores and the memory, as text."""
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{model}, {os.cpu_count()} cores, {memory:.0f} GiB"


def read_commit() -> str:
    """Returns the commit of the repository, with `+changes` if a file differs from the commit."""
    git = ["git", "-C", str(HERE)]
    head = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=False)
    changes = subprocess.run(
        [*git, "status", "--porcelain", "-uno", "--", ":/", ":!/benchmarks/results"],
        capture_output=True,
        text=True,
        check=False,
    )
    return (head.stdout.strip() or "none") + ("+changes" if changes.stdout.strip() else "")
