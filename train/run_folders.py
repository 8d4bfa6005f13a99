"""What a training run's folder holds, and the names of the result files that `evaluate` writes."""

from __future__ import annotations

import json
from pathlib import Path

from manifests.errors import BadInput
from manifests.runtime.files import find_blocking_file, write_atomically
from manifests.runtime.text import make_printable

RUN_CONFIG = "config.json"


SAMPLES = "samples"  # RUN/samples/<images>.png


def check_run_folder(run: Path) -> None:
    """Raise BadInput where `run` is neither a training run nor free to become one.

    Without a config.json a run that was stopped early holds its snapshot at most; dot files do not count.
    """
    if (file := find_blocking_file(run)) is not None:
        raise BadInput(f"{make_printable(file)} is a file and a run is a folder: give this run another --out.")
    if not run.is_dir():
        return
    if (run / RUN_CONFIG).is_file():
        try:
            ours = {"recipe", "snapshot"} <= json.loads((run / RUN_CONFIG).read_bytes()).keys()
        except (ValueError, AttributeError):
            ours = False
        if not ours:
            raise BadInput(
                f"{make_printable(run / RUN_CONFIG)} is not the config of a run: give this run another --out."
            )
        return
    others = sorted(path.name for path in run.iterdir() if not path.name.startswith(".") and path.name != "snapshot")
    if others:
        raise BadInput(
            f"{make_printable(run)} is not empty and no training run (it holds {make_printable(others[0])} and no "
            f"{RUN_CONFIG}): give this run another --out."
        )


def name_result_file(stem: str, judge: str | None, steps: int) -> str:
    """What the files of a result are called, without a suffix: each number of steps, and a judge's, have their own."""
    return stem + ("" if steps == 1 else f"-{steps}-steps") + ("" if judge is None else "-judge")


def check_output_files(*paths: Path | None) -> None:
    """Raise BadInput where one of the files that a user named cannot be there; before anything takes long."""
    for path in paths:
        if path is not None and (path.is_dir() or find_blocking_file(path.parent) is not None):
            raise BadInput(f"{path} cannot be written: name a file in a folder.")


def write_output_text(path: Path, text: str) -> None:
    """Write a table or page, whole or not at all. Raises BadInput where no file can be there."""
    check_output_files(path)
    write_atomically(path, text.encode())
