"""Reads the list of photos and faces that must stay out of a dataset, and compares photos and faces with this list.

The list has marks of each photo. The first mark is the HMAC of the photo's sha256 under the dataset's key (see
manifests/privacy/keys.py). Other marks recognize copies of the photo (see manifests/privacy/picture_marks.py). The list
has the embedding of each face, which is biometric data. Only `likeness manifest optout --remember-face` adds faces to
the list.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from manifests.ledger.decisions.face_finder import MIN_OVERLAP, measure_overlap
from manifests.ledger.ledger import Ledger
from manifests.ledger.queries import read_faces_with_reason, read_recognizers
from manifests.ledger.records import KeptOutMark, Photo
from manifests.privacy.erase import OPTED_OUT
from manifests.privacy.keys import HIDDEN_PREFIX, compute_mark, hide_uri, read_key
from manifests.privacy.picture_marks import NO_PICTURES, KeptOutPictures, arrange_marks, find_copies
from manifests.runtime.files import sha256_bytes
from manifests.runtime.uris import uri_of


@dataclass(frozen=True)
class KeptOutList:
    """The list of photos and faces that must stay out of a dataset. Each worker process gets a copy of the list."""

    key: bytes = b""
    photos: Mapping[str, str] = field(default_factory=dict)  # Maps the mark of a photo to "opted_out" or "purged".
    # Unit embeddings of the example faces by one recognizer, float32 (k, d). None without example faces.
    examples: np.ndarray | None = None
    # A face is kept out if its cosine to an example face is at least this number. 2.0 keeps no face out.
    threshold: float = 2.0
    # Maps a photo id to the boxes of the faces that opted out in this photo, or in a copy of this photo.
    boxes: Mapping[str, Sequence[Sequence[float]]] = field(default_factory=dict)
    pictures: KeptOutPictures = NO_PICTURES

    def reason_for(self, sha256: str) -> str | None:
        """Returns the reason why the file with this sha256 is kept out, or None if the file may be used."""
        return self.photos.get(compute_mark(self.key, "photo", sha256)) if self.photos else None

    def find_reason(self, photo: Photo, uri: str) -> str | None:
        """Returns the reason why the picture in the file `uri` is kept out, or None.

        `photo` has the hashes of the picture.
        """
        return self.pictures.find_reason(photo.samples, photo.phash256, uri)

    def covers(self, photo_id: str, box: Sequence[float]) -> bool:
        """Returns whether a face at `box` (x0, y0, x1, y1 in photo pixels) overlaps a face that opted out earlier."""
        return any(measure_overlap(box, other) >= MIN_OVERLAP for other in self.boxes.get(photo_id, ()))

    def matches(self, embeddings: np.ndarray) -> np.ndarray:
        """Returns a bool array (n,) that is true for each embedding that matches an example face.

        `embeddings` are unit embeddings (n, d). An embedding matches if its cosine to an example is the threshold or
        more.
        """
        if self.examples is None or not len(embeddings):
            return np.zeros(len(embeddings), bool)
        return np.asarray((embeddings @ self.examples.T).max(1) >= self.threshold)


NOBODY_KEPT_OUT = KeptOutList()


def read_kept_out_list(ledger: Ledger, recognizer: str | None = None, same_person: float = 2.0) -> KeptOutList:
    """Returns the list of photos and faces that must stay out of a dataset.

    `recognizer` is the sha256 of the file of a recognizer. The list has only the example faces whose embeddings this
    recognizer computed. The threshold of the list is that of the last grouping, or `same_person` before the first
    grouping.
    """
    rows = ledger.read_rows(KeptOutMark)
    photos = {row.mark: row.reason for row in rows if row.kind == "photo"}
    examples = [row.embedding for row in rows if row.embedding is not None and row.recognizer == recognizer]
    threshold = float(ledger.read_detail("group").get("threshold", same_person))
    key = read_key(ledger) if rows else b""
    return KeptOutList(
        key,
        photos,
        np.array(examples, np.float32) if examples else None,
        threshold,
        _find_opted_out_boxes(ledger),
        arrange_marks(key, rows),
    )


def _find_opted_out_boxes(ledger: Ledger) -> dict[str, list[Sequence[float]]]:
    """Returns a dict that maps photo id to the boxes of the faces that opted out in the photo, or in a copy of the
    photo.

    The box of a face in a copy is scaled to the size of the photo.
    """
    faces = read_faces_with_reason(ledger, [OPTED_OUT])
    if not faces:
        return {}
    photos = {photo.photo_id: photo for photo in ledger.read_rows(Photo)}
    copies = find_copies(photos.values(), {face.photo_id for face in faces})
    boxes: dict[str, list[Sequence[float]]] = {}
    for face in faces:
        boxes.setdefault(face.photo_id, []).append(face.box)
        for copy in sorted(copies.get(face.photo_id, ())):
            x, y = (getattr(photos[copy], side) / getattr(photos[face.photo_id], side) for side in ("width", "height"))
            boxes.setdefault(copy, []).append(
                tuple(edge * scale for edge, scale in zip(face.box, (x, y, x, y), strict=True))
            )
    return boxes


def open_kept_out_list(dataset: Path) -> KeptOutList:
    """Returns the list of photos and faces that must stay out of a dataset.

    The list has only the example faces whose embeddings the dataset's recognizer computed.
    """
    with Ledger.open(dataset) as ledger:
        recognizers = read_recognizers(ledger)
        return read_kept_out_list(ledger, recognizers[0].sha256 if len(recognizers) == 1 else None)


def find_kept_out_files(ledger: Ledger, uris: Iterable[str], hashes: Iterable[str]) -> set[str]:
    """Returns a set of those `uris` and `hashes` that are kept out. `hashes` are the sha256 of files."""
    hidden = set(ledger.query("SELECT uri FROM files WHERE starts_with(uri, ?)", HIDDEN_PREFIX)["uri"])
    marks = set(ledger.query("SELECT mark FROM kept_out WHERE kind = 'photo'")["mark"])
    if not hidden and not marks:
        return set()
    key = read_key(ledger)
    found = {uri for uri in uris if hide_uri(key, uri) in hidden}
    return found | {sha256 for sha256 in hashes if compute_mark(key, "photo", sha256) in marks}


def find_kept_out_reason(ledger: Ledger, photo: str) -> str | None:
    """Returns the reason why a photo is kept out, or None if the photo may be used. `photo` is a path or a sha256."""
    key = read_key(ledger)
    marks = [hide_uri(key, uri_of(photo)), compute_mark(key, "photo", photo)]
    if Path(photo).is_file():
        marks.append(compute_mark(key, "photo", sha256_bytes(Path(photo).read_bytes())))
    for table, column in (("files", "uri"), ("kept_out", "mark")):
        reasons = ledger.query(f"SELECT reason FROM {table} WHERE list_contains(?, {column})", marks)["reason"]
        if len(reasons):
            return str(reasons[0])
    return None
