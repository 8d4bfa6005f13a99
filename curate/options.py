"""What a curation run is asked to do, looked at before anything is read or written."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

from curate.config import CurateConfig
from curate.photos.consent import read_sidecar
from curate.photos.labels import check_labels
from curate.photos.scan import check_offered
from manifests.errors import BadInput
from manifests.ledger.paths import LEDGER_NAME
from manifests.privacy.keys import KEY_NAME
from manifests.runtime.files import find_blocking_file
from manifests.runtime.text import make_printable
from manifests.runtime.workers import check_workers

SPLITS = ("identity", "photos")


def check_options(photos: Sequence[Path], dataset: Path, config: CurateConfig, workers: int | None = None) -> None:
    """Raise BadInput, in one sentence, for what means nothing or would harm what is there."""
    if config.landmarks not in (None, "dlib"):
        raise BadInput(f"--landmarks {config.landmarks}: only dlib is known.")
    if config.split.policy not in SPLITS:
        raise BadInput(f"--split-by {config.split.policy}: say {' or '.join(SPLITS)}.")
    check_number("--same-person", config.group.same_person, -1, 1, "a cosine")
    check_labels(config.labels)
    if config.sidecar is not None:
        read_sidecar(Path(config.sidecar))
    if workers is not None:
        check_workers(workers)
    check_dataset_folder(photos, dataset)
    check_offered(photos)


def check_number(option: str, value: float | None, low: float, high: float, what: str) -> None:
    """Raise BadInput where the value of an option is not between `low` and `high`, or is no number; None is fine."""
    if value is not None and not (math.isfinite(value) and low <= value <= high):
        reach = f"from {low:g} to {high:g}" if math.isfinite(high) else f"of {low:g} or more"
        raise BadInput(f"{option} {value:g}: say {what} {reach}.")


def check_dataset_folder(photos: Sequence[Path], dataset: Path) -> None:
    """Raise BadInput where `dataset` cannot become or be a dataset without claiming what is not its own.

    A folder that holds a ledger passes. Any other must be empty but for the photos that are offered, a key that was put
    there (and dot files):
    once it is a dataset, nothing else in it would be found as photos any more.
    """
    if (file := find_blocking_file(dataset)) is not None:
        raise BadInput(f"{make_printable(file)} is a file and a dataset is a folder: name another one with --out.")
    if not dataset.is_dir():
        return
    for path in photos:
        if path.is_dir() and path.samefile(dataset):
            raise BadInput(f"--out {make_printable(dataset)} is the folder of the photos itself: name another folder.")
    if os.path.lexists(dataset / LEDGER_NAME):
        return
    offered = [Path(os.path.realpath(path)) for path in photos]
    for child in sorted(dataset.iterdir()):
        here = Path(os.path.realpath(child))
        if (
            child.name[0] != "."
            and child.name != KEY_NAME
            and not any(path == here or here in path.parents for path in offered)
        ):
            raise BadInput(
                f"--out {make_printable(dataset)} is no dataset and holds other things, "
                f"{make_printable(child.name)} for one: name a new or an empty folder."
            )
