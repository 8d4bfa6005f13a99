"""Checks the folder of a training run, and the files that commands write."""

from __future__ import annotations

import json
from pathlib import Path

from manifests.errors import BadInput
from manifests.runtime.files import find_blocking_file, write_atomically
from manifests.runtime.text import make_printable

RUN_CONFIG = "config.json"  # RUN/config.json: the recipe and the settings of the run.
SAMPLES = "samples"  # RUN/samples/<images seen>.png: the grids of sample images.


def check_run_folder(run: Path) -> None:
    """Raises BadInput if `run` is a file, or a folder that contains anything other than a training run.

    A new or an empty folder is accepted. A run that was stopped early leaves only the folder `snapshot` and files whose
    names begin with a dot. A folder with no other contents is therefore also accepted.
    """
    if (file := find_blocking_file(run)) is not None:
        raise BadInput(f"{make_printable(file)} is a file, but a run is a folder: give another folder for the run.")
    if not run.is_dir():
        return
    if (run / RUN_CONFIG).is_file():
        try:
            is_ours = {"recipe", "snapshot"} <= json.loads((run / RUN_CONFIG).read_bytes()).keys()
        except (ValueError, AttributeError):
            is_ours = False
        if not is_ours:
            raise BadInput(
                f"{make_printable(run / RUN_CONFIG)} is not the configuration of a training run: give another folder "
                "for the run."
            )
        return
    others = sorted(path.name for path in run.iterdir() if not path.name.startswith(".") and path.name != "snapshot")
    if others:
        raise BadInput(
            f"{make_printable(run)} is not a training run: it contains {make_printable(others[0])} but no "
            f"{RUN_CONFIG}. Give another folder for the run."
        )


def check_output_files(*paths: Path | None) -> None:
    """Raises BadInput if a path is a folder, or if one of its parent folders is a file.

    Commands call this function before they start slow work. A path that is None is skipped.
    """
    for path in paths:
        if path is not None and (path.is_dir() or find_blocking_file(path.parent) is not None):
            raise BadInput(f"{make_printable(path)} cannot be written as a file: give the path of a file in a folder.")


def write_output_text(path: Path, text: str) -> None:
    """Writes `text` to `path` as UTF-8, completely or not at all. Raises BadInput like `check_output_files`."""
    check_output_files(path)
    write_atomically(path, text.encode())


def split_name(argument: str) -> tuple[str | None, Path]:
    """Returns the name and the path of an argument NAME=PATH. The name of an argument PATH is None.

    An argument that is the path of something that exists has no name, even if it contains "=".
    """
    name, equals, path = argument.partition("=")
    return (name, Path(path)) if equals and not Path(argument).exists() else (None, Path(argument))
