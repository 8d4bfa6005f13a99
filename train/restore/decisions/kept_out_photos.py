"""Leaves out kept-out photos: photos that were opted out or purged. The dataset on which the restorer was trained has
the list of these photos."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from manifests.errors import BadInput
from manifests.ledger.paths import LEDGER_NAME
from manifests.pictures.untrusted_images import ReadOriginal
from manifests.runtime.files import sha256_file
from manifests.runtime.text import make_printable
from manifests.runtime.uris import uri_of

if TYPE_CHECKING:
    from manifests.privacy.kept_out import KeptOutList


def find_kept_out_list(checkpoint: Path) -> KeptOutList | None:
    """Returns the list of the photos that were opted out or purged from the dataset whose folder contains the
    checkpoint.

    Returns None if the checkpoint is not inside the folder of a dataset.
    """
    path = checkpoint.absolute()
    for folder in (path, *path.parents):
        if (folder / LEDGER_NAME).is_file():
            from manifests.privacy.kept_out import open_kept_out_list

            return open_kept_out_list(folder)
    return None


def is_kept_out(path: Path, kept_out: KeptOutList | None, read_original: ReadOriginal) -> bool:
    """Returns whether a file is a kept-out photo or a copy of one.

    Copies are found as in `likeness curate` (manifests/privacy/picture_marks.py). If the file cannot be read, the
    result is False.
    """
    if kept_out is None or not path.is_file():
        return False
    if kept_out.reason_for(sha256_file(path)) is not None:
        return True
    if not kept_out.pictures.reasons:
        return False
    from curate.faces.measure import hash_picture

    try:
        picture = read_original(path)
    except BadInput:
        return False
    samples = None if picture.stored is None else picture.stored.sha256
    _, phash256 = hash_picture(picture.rgb)
    return kept_out.pictures.find_reason(samples, phash256, uri_of(path)) is not None


def drop_kept_out_references(
    files: Sequence[tuple[Path, Path | None]],
    kept_out: KeptOutList | None,
    read_original: ReadOriginal,
    say: Callable[[str], None],
) -> list[tuple[Path, Path | None]]:
    """Returns the reference files (file, folder) that are not kept out. `say` gets a sentence for each dropped file.

    `folder` is None if the user named the file itself. Raises BadInput if such a file is kept out.
    """
    allowed = []
    for path, folder in files:
        if not is_kept_out(path, kept_out, read_original):
            allowed.append((path, folder))
        elif folder is None:
            raise BadInput(
                f"The reference {make_printable(path)} is kept out of the dataset of this run (opted out or purged): "
                "give another photo with --reference."
            )
        else:
            say(
                f"A photo was left out of the references: {make_printable(path)} is kept out of the dataset of this "
                "run (opted out or purged)."
            )
    return allowed
