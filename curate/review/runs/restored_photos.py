"""Reads the folders of `likeness restore` for the review: each restored photo beside the photo before the restoration.

The log restored.jsonl of a folder names the photos (train/restore/outputs/log.py). A photo is shown only if the ledger
knows it: as a file of the dataset, or as an image of a frozen set. An image of a frozen set also has a truth.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manifests.ledger.ledger import Ledger
from manifests.runtime.text import make_printable
from manifests.runtime.uris import uri_of

LOG = "restored.jsonl"
UNKNOWN = "The photo before the restoration is not in this dataset, so it is not shown."

_FILES = """
SELECT u.uri, u.sha256, u.photo_id FROM files u WHERE u.status = 'ok' AND list_contains(?, u.uri)"""


@dataclass(frozen=True)
class RestoredPhoto:
    """A photo that `likeness restore` wrote."""

    place: str  # the path inside the folder; stands for the photo
    name: str
    file: Path
    similarity: float | None  # least mean cosine of a face to its references; None without references
    sentences: tuple[str, ...]  # what happened to the photo and to its faces
    before: tuple[str, str, str] | None  # uri, sha256 and photo id of the photo in the dataset
    lq: tuple[str, str] | None  # name of the frozen set and face id, if the photo is an image of a frozen set


def find_restored_folders(folders: Sequence[Path]) -> list[Path]:
    """Returns the folders that `likeness restore` wrote: the given folders, and the folders directly inside them."""
    logs = [path for folder in folders for path in (folder / LOG, *sorted(folder.glob(f"*/{LOG}")))]
    return list({path.parent.resolve(): path.parent for path in logs if path.is_file()}.values())


def read_restored_photos(ledger: Ledger, folder: Path) -> list[RestoredPhoto]:
    """Returns the restored photos of a folder. The photo that is least like its references comes first.

    Lines of the log that are broken or that name no file inside the folder are left out. A restored image of a frozen
    set is left out if the set does not have the image any more, for example because its photo lost its consent.
    """
    lines = (folder / LOG).read_bytes().splitlines()
    entries = [entry for line in lines if (entry := _parse(line, folder)) is not None]
    uris = [uri_of(entry["source"]) for entry in entries]
    files = {uri: (uri, sha256, photo) for uri, sha256, photo in ledger.query(_FILES, uris).iter_rows()}
    images = set(ledger.query("SELECT lq_set, face_id FROM degradations").iter_rows())
    lq_folder = (ledger.dataset / "lq").resolve()
    photos = []
    for entry, uri in zip(entries, uris, strict=True):
        source = Path(entry["source"])
        lq = (source.parent.name, source.stem)
        is_lq = source.parent.parent.resolve() == lq_folder
        if is_lq and lq not in images:
            continue
        photos.append(
            RestoredPhoto(
                entry["place"],
                make_printable(source.name),
                folder / entry["place"],
                entry["similarity"],
                entry["sentences"],
                files.get(uri),
                lq if is_lq else None,
            )
        )
    return sorted(photos, key=lambda photo: (math.inf if photo.similarity is None else photo.similarity, photo.place))


def _parse(line: bytes, folder: Path) -> dict[str, Any] | None:
    """Returns what the page needs of a line of the log, or None if the line has no restored file."""
    try:
        entry = json.loads(line)
        if entry["status"] not in ("ok", "kept"):
            return None
        place = str(entry["place"])
        file = (folder / place).resolve()
        if not file.is_relative_to(folder.resolve()) or not file.is_file():
            return None
        similarities = [face["similarity"] for face in entry["faces"] if face["similarity"] is not None]
        sentences = [str(face["sentence"]) for face in entry["faces"]]
        return {
            "place": place,
            "source": str(entry["source"]),
            "similarity": min(map(float, similarities), default=None),
            "sentences": (*sentences, *([str(entry["reason"])] if entry["reason"] else [])),
        }
    except (ValueError, LookupError, TypeError, OSError):
        return None
