"""Reads the folders of `likeness restore` for the review: each restored photo beside the photo before the restoration.

The log restored.jsonl of a folder names the photos and the references (train/restore/outputs/log.py). The photo before
the restoration is shown only if the ledger has it: as a file of the dataset, or as an image of a frozen set. For an
image of a frozen set, the target is shown too. If pictures of the photo or of one of its references must not be shown,
the page shows no picture of this restoration.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curate.review.runs.used_files import KnownFiles, UsedFile
from manifests.ledger.ledger import Ledger
from manifests.runtime.text import make_printable

LOG = "restored.jsonl"
UNKNOWN = "The photo before the restoration is not in this dataset, so it is not shown."


@dataclass(frozen=True)
class RestoredPhoto:
    """A photo that `likeness restore` wrote."""

    place: str  # the path of the restored file inside the folder
    name: str
    file: Path
    # The lowest similarity of a face to its references (mean cosine). None without references.
    similarity: float | None
    sentences: tuple[str, ...]  # Sentences that say what happened to the photo and to its faces.
    # The uri and the sha256 of the photo in the dataset. None if the dataset does not have the photo.
    before: tuple[str, str] | None
    # The name of the frozen set and the face id. None if the photo is not an image of a frozen set.
    lq: tuple[str, str] | None
    is_secret: bool  # Whether pictures of the photo or of a reference must not be shown.

    @property
    def pictures(self) -> tuple[str, ...]:
        """The pictures that may be shown: `lq` (before the restoration), `restored`, and `truth` (the target)."""
        if self.is_secret:
            return ()
        if self.lq is not None:
            return ("lq", "restored", "truth")
        return ("restored",) if self.before is None else ("lq", "restored")


def find_restored_folders(folders: Sequence[Path]) -> list[Path]:
    """Returns the folders that `likeness restore` wrote.

    Only `folders` and the folders directly inside them are searched.
    """
    logs = [path for folder in folders for path in (folder / LOG, *sorted(folder.glob(f"*/{LOG}")))]
    return list({path.parent.resolve(): path.parent for path in logs if path.is_file()}.values())


def read_restored_photos(ledger: Ledger, folder: Path) -> list[RestoredPhoto]:
    """Returns the restored photos of a folder. The photo that is least similar to its references comes first.

    A line of the log is left out if it is broken, or if it names no file inside the folder. A restored photo is left
    out if a purge or an opt-out removed the photo or one of its references. An image of a frozen set is left out if the
    set does not have it any more.
    """
    lines = (folder / LOG).read_bytes().splitlines()
    entries = [entry for line in lines if (entry := _parse(line, folder)) is not None]
    known = KnownFiles(ledger, {file for entry in entries for file in (entry["source"], *entry["references"])})
    photos = []
    for entry in entries:
        source: UsedFile = entry["source"]
        used = [source, *entry["references"]]
        if any(known.is_gone(file) for file in used):
            continue
        photos.append(
            RestoredPhoto(
                entry["place"],
                make_printable(Path(source.path).name),
                folder / entry["place"],
                entry["similarity"],
                entry["sentences"],
                known.find_before(source),
                source.frozen_image,
                any(known.is_secret(file) for file in used),
            )
        )
    return sorted(photos, key=lambda photo: (math.inf if photo.similarity is None else photo.similarity, photo.place))


def _parse(line: bytes, folder: Path) -> dict[str, Any] | None:
    """Returns the parts of a line of the log that the page needs, or None if the line has no restored file."""
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
            "source": UsedFile(str(entry["source"]), _read_hash(entry.get("source_sha256"))),
            "references": [
                UsedFile(str(use["file"]), _read_hash(use.get("sha256")))
                for face in entry["faces"]
                for use in face.get("references", ())
            ],
            "similarity": min(map(float, similarities), default=None),
            "sentences": (*sentences, *([str(entry["reason"])] if entry["reason"] else [])),
        }
    except (ValueError, LookupError, TypeError, AttributeError, OSError):
        return None


def _read_hash(value: object) -> str | None:
    return value if isinstance(value, str) else None
