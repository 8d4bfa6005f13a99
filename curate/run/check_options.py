"""Checks the options of a curation run, before anything is read or written."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path

from curate.config import CurateConfig
from curate.faces.networks.devices import choose_device
from curate.photos.consent import read_sidecar
from curate.photos.labelling.labels import check_labels
from curate.photos.name_rules import LEFT_OUT, NameRules, check_patterns
from curate.photos.walk import check_photo_paths, walk_files
from manifests.errors import BadInput
from manifests.ledger.paths import LEDGER_NAME
from manifests.ledger.store_copy import check_store
from manifests.privacy.keys import KEY_NAME, read_key_file
from manifests.runtime.files import find_blocking_file
from manifests.runtime.text import format_count, make_printable
from manifests.runtime.workers import check_workers

SPLIT_POLICIES = ("identity", "photos")


def check_options(
    photos: Sequence[Path],
    dataset: Path,
    config: CurateConfig,
    workers: int | None = None,
    device: str = "auto",
    store: Path | None = None,
) -> None:
    """Raises BadInput if an option has a wrong value, or if the dataset folder contains files that belong to no
    dataset. Writes nothing, also not into `store`. Raises NoSuchDevice if `device` is unknown or not installed.
    """
    if device != "auto":
        choose_device(device)
    if config.landmarks not in (None, "dlib"):
        raise BadInput(f"--landmarks {config.landmarks} is unknown. Give dlib.")
    if config.split.policy not in SPLIT_POLICIES:
        raise BadInput(f"--split-by {config.split.policy} is unknown. Give {' or '.join(SPLIT_POLICIES)}.")
    check_patterns("--exclude", config.exclude)
    check_patterns("--include", config.include)
    check_number("--same-person", config.group.same_person, -1, 1, "a cosine")
    check_labels(config.labels)
    if config.sidecar is not None:
        read_sidecar(Path(config.sidecar))
    if workers is not None:
        check_workers(workers)
    check_dataset_folder(photos, dataset)
    check_photo_paths(photos)
    if store is not None:
        check_store(dataset, store, read_key_file(dataset))
    if photos and not os.path.lexists(dataset / LEDGER_NAME):
        _check_any_file(photos, NameRules(config.exclude, config.include))


def _check_any_file(photos: Sequence[Path], rules: NameRules) -> None:
    """Raises BadInput if `photos` contain no file that the scan would read or record."""
    left_out = 0
    for item in walk_files(photos, rules=rules):
        if isinstance(item, Path) or item.reason not in LEFT_OUT:
            return
        left_out += 1
    where = make_printable(photos[0]) if len(photos) == 1 else "The named paths"
    why = (
        f", except {format_count(left_out, 'path')} that {'is' if left_out == 1 else 'are'} left out"
        if left_out
        else ""
    )
    raise BadInput(
        f"{where} {'contains' if len(photos) == 1 else 'contain'} no file{why}. Name a folder that contains photos."
    )


def check_number(option: str, value: float | None, low: float, high: float, what: str) -> None:
    """Raises BadInput if the value of an option is NaN, infinity, or not between `low` and `high`. None is allowed."""
    if value is not None and not (math.isfinite(value) and low <= value <= high):
        finite = math.isfinite(high)
        advice = f"Give {what} from {low:g} to {high:g}." if finite else f"Give {what} of {low:g} or more."
        raise BadInput(f"{option} {value:g} is out of range. {advice}")


def check_dataset_folder(photos: Sequence[Path], dataset: Path) -> None:
    """Raises BadInput if the folder `dataset` cannot be used as a dataset.

    A folder can be used if it does not exist yet, is empty, or contains a ledger. A folder without a ledger may contain
    only the folders of `photos`, the file `secret.key`, and files whose names begin with a dot. If a folder without a
    ledger contains any other file, it is refused, because later runs skip every file inside a dataset.
    """
    if (file := find_blocking_file(dataset)) is not None:
        raise BadInput(f"{make_printable(file)} is a file, but a dataset is a folder. Name a folder with --out.")
    if not dataset.is_dir():
        return
    for path in photos:
        if path.is_dir() and path.samefile(dataset):
            raise BadInput(f"--out {make_printable(dataset)} is the folder of the photos. Name another folder.")
    if os.path.lexists(dataset / LEDGER_NAME):
        return
    photo_paths = [Path(os.path.realpath(path)) for path in photos]
    for child in sorted(dataset.iterdir()):
        real_child = Path(os.path.realpath(child))
        if (
            child.name[0] != "."
            and child.name != KEY_NAME
            and not any(path == real_child or real_child in path.parents for path in photo_paths)
        ):
            raise BadInput(
                f"--out {make_printable(dataset)} is not a dataset and contains other files, for example "
                f"{make_printable(child.name)}. Name a new or an empty folder."
            )
