"""Makes the plan of `likeness manifest optout`, which removes photos from a dataset and keeps these photos out."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from manifests.errors import BadInput
from manifests.ledger.ledger import Ledger
from manifests.ledger.records import Photo
from manifests.privacy.erase import OPTED_OUT
from manifests.privacy.purge_plan import PurgePlan, plan_purge
from manifests.runtime.archives import is_archive
from manifests.runtime.files import sha256_file


def read_photo_list(file: Path) -> list[str]:
    """Returns the photos that a text file names. Each line of the file is a path, or the sha256 of a photo's bytes.

    Empty lines and lines that begin with # are skipped. Raises BadInput if the file cannot be read or names no photo.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(
            f"--photo-list {file} cannot be read as text ({error.__class__.__name__}). Name a text file with one "
            "photo on each line."
        ) from None
    photos = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not photos:
        raise BadInput(f"--photo-list {file} names no photo. Write a path or a sha256 on each line.")
    return photos


def plan_optout(
    dataset: Path,
    photos: Sequence[str],
    runs: Sequence[Path] = (),
    read_photo: Callable[[Path], Photo | None] = lambda _: None,
) -> PurgePlan:
    """Returns the plan that removes these photos from the dataset, and keeps these photos out of later curations.

    Each photo is the sha256 of a file's bytes, a path to a file, or a name that `plan_purge` accepts. `read_photo`
    returns the row of a photo in a file outside the dataset, or None if the file cannot be decoded. If a photo cannot
    be decoded, Likeness does not recognize its copies. Raises BadInput if a photo is an archive or cannot be found.
    """
    inside: list[str] = []
    outside: dict[str, Photo | None] = {}  # maps the sha256 of a file outside the dataset to the row of its photo
    with Ledger.open(dataset) as ledger:
        photo_ids = {photo_id: photo_id for photo_id in ledger.query("SELECT photo_id FROM photos")["photo_id"]}
        photo_ids |= dict(ledger.query("SELECT sha256, photo_id FROM files WHERE sha256 IS NOT NULL").iter_rows())
    for photo in photos:
        path = Path(photo)
        if re.fullmatch(r"[0-9a-fA-F]{64}", photo):
            sha256 = photo.lower()
        elif path.is_file():
            with path.open("rb") as file:
                if is_archive(file.read(512)):
                    raise BadInput(
                        f"{path} is an archive. Name each photo in the archive as {path.name}/PHOTO, or by its sha256."
                    )
            sha256 = sha256_file(path)
        else:
            inside.append(photo)
            continue
        if sha256 in photo_ids:
            inside.append(photo_ids[sha256])
        else:
            outside[sha256] = outside.get(sha256) or (read_photo(path) if path.is_file() else None)
    plan = plan_purge(dataset, (), inside, runs, OPTED_OUT)
    hashes = {name: (photo.samples, photo.phash256) if photo else (None, None) for name, photo in outside.items()}
    return replace(plan, kept_out=tuple((name, *hashes[name]) for name in sorted(hashes)))
