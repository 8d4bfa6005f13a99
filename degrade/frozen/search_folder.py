"""Finds the images of a folder on a disk or in a store, and the datasets and frozen sets that are left out."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from degrade.frozen.set_files import CARD, THETAS, plain_name
from manifests.ledger.paths import DATASET_FILES, DATASET_FOLDER
from manifests.pictures.images import is_picture
from manifests.stores.store_path import StorePath

# A file with an ending in SUFFIXES counts as an image even if the file is damaged. The card then lists the file as
# skipped.
_ENDINGS = ".jpg .jpeg .png .webp .bmp .tif .tiff .gif .avif .jp2 .heic .heif .jxl"
SUFFIXES = set(_ENDINGS.split())


@dataclass(frozen=True)
class FolderContents:
    """The result of `search_folder`. All paths and names are relative to the folder."""

    images: list[Path]  # sorted by their bytes
    # The sorted names of files in a store that Likeness cannot read because of their names. Such a name has `//`, or
    # has `.` or `..` between slashes. A local folder has no such names.
    unsafe_names: list[str]
    left_out: list[tuple[str, str]]  # The plain path of each folder that is left out, and the reason.


def find_images(folder: Path, leave_out: Path | None = None) -> list[Path]:
    """Returns the images of `search_folder`."""
    return search_folder(folder, leave_out).images


def search_folder(folder: Path, leave_out: Path | None = None) -> FolderContents:
    """Finds all image files below `folder`.

    A file is an image if its first bytes are those of an image format, or if its name ends with one of SUFFIXES. Files
    whose names begin with a dot are left out. Datasets, copies of datasets in a store, finished sets (folders with
    card.json and theta.jsonl) and the folder `leave_out` are also left out. Links to folders are not followed.
    """
    if isinstance(folder, StorePath):
        return _search_store(folder, leave_out)
    images: list[Path] = []
    left_out: list[tuple[str, str]] = []
    for root, folders, files in os.walk(folder):
        here = Path(root)
        if here != folder and (reason := _find_reason(files)):
            folders.clear()
            left_out.append((plain_name(here.relative_to(folder)), reason))
            continue
        folders[:] = [name for name in folders if leave_out is None or (here / name).resolve() != leave_out.resolve()]
        images += [(here / name).relative_to(folder) for name in files if is_image(here / name)]
    return FolderContents(sorted(images, key=os.fsencode), [], sorted(left_out))


def _search_store(folder: StorePath, leave_out: Path | None) -> FolderContents:
    files, unsafe = folder.list_all()
    names: dict[Path, set[str]] = {}
    for file in files:
        names.setdefault(file.parent, set()).add(file.name)
    reasons = {place: reason for place in names if place != folder and (reason := _find_reason(names[place]))}
    outside = {*reasons, *([leave_out] if isinstance(leave_out, StorePath) else [])}
    images = [
        Path(*file.relative_to(folder).parts) for file in files if not outside & {*file.parents} and is_image(file)
    ]
    begins = tuple(f"{place}/" for place in outside)
    unsafe_names = [name.removeprefix(f"{folder}/") for name in unsafe if not name.startswith(begins)]
    left_out = [
        (plain_name(Path(*place.relative_to(folder).parts)), reason)
        for place, reason in reasons.items()
        if place != leave_out and not outside & {*place.parents}
    ]
    return FolderContents(
        sorted(images, key=os.fsencode),
        [name for name in unsafe_names if not name.rpartition("/")[2].startswith(".")],
        sorted(left_out),
    )


def _find_reason(names: Collection[str]) -> str | None:
    """Returns why the files of a folder are not degraded, or None. `names` are the names in the folder."""
    if not DATASET_FILES.isdisjoint(names):
        return f"is a dataset or a copy of a dataset ({DATASET_FOLDER})"
    return "is a frozen set (frozen_set)" if CARD in names and THETAS in names else None


def is_image(path: Path) -> bool:
    """Returns whether a file is an image by its ending or by its first bytes.

    A file whose name begins with a dot is not an image.
    """
    if path.name.startswith("."):
        return False
    if path.suffix.lower() in SUFFIXES:
        return True
    try:
        return path.is_file() and is_picture(path)  # a pipe is not read, because reading would wait for a writer
    except OSError:
        return False
