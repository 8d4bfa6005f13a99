"""Reads which photos and faces must stay out of a dataset, and checks photos and faces against them.

A photo is recorded as a mark: the HMAC of its sha256 under the dataset's key (manifests/privacy/keys.py). A face is
recorded only by `likeness manifest optout --remember-face`: as its embedding, which is biometric data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from manifests.ledger.decision_log import MIN_OVERLAP, measure_overlap
from manifests.ledger.ledger import Ledger
from manifests.ledger.queries import read_faces_with_reason, read_recognizers
from manifests.ledger.records import KeptOutMark
from manifests.privacy.erase import OPTED_OUT
from manifests.privacy.keys import compute_mark, hide_uri, read_key
from manifests.runtime.files import sha256_bytes
from manifests.runtime.uris import uri_of


@dataclass(frozen=True)
class KeptOutList:
    """The photos and faces that must stay out of one dataset. The list is sent to worker processes."""

    key: bytes = b""
    photos: Mapping[str, str] = field(default_factory=dict)  # mark of a photo -> "opted_out" or "purged"
    examples: np.ndarray | None = None  # float32 (k, d), unit embeddings of one recognizer
    threshold: float = 2.0  # a face with at least this cosine to an example is kept out; 2 matches no face
    boxes: Mapping[str, Sequence[Sequence[float]]] = field(default_factory=dict)  # photo id -> boxes of opted-out faces

    def reason_for(self, sha256: str) -> str | None:
        """Returns the reason why a photo is kept out, or None if the photo may be used."""
        return self.photos.get(compute_mark(self.key, "photo", sha256)) if self.photos else None

    def covers(self, photo_id: str, box: Sequence[float]) -> bool:
        """Returns whether a face at `box` (x0, y0, x1, y1 in photo pixels) overlaps a face that opted out before."""
        return any(measure_overlap(box, other) >= MIN_OVERLAP for other in self.boxes.get(photo_id, ()))

    def matches(self, embeddings: np.ndarray) -> np.ndarray:
        """Returns a bool array (n,): whether each of the unit embeddings (n, d) matches an example.

        An embedding matches if its cosine to an example reaches the threshold.
        """
        if self.examples is None or not len(embeddings):
            return np.zeros(len(embeddings), bool)
        return np.asarray((embeddings @ self.examples.T).max(1) >= self.threshold)


NOBODY_KEPT_OUT = KeptOutList()


def read_kept_out_list(ledger: Ledger, recognizer: str | None = None, same_person: float = 2.0) -> KeptOutList:
    """Returns the list of a dataset.

    `recognizer` is the sha256 of a recognizer's file. The list holds only examples that this recognizer embedded.
    The list's threshold comes from the last grouping. It is `same_person` if no grouping ran yet.
    """
    rows = ledger.read_rows(KeptOutMark)
    photos = {row.mark: row.reason for row in rows if row.kind == "photo"}
    examples = [row.embedding for row in rows if row.embedding is not None and row.recognizer == recognizer]
    threshold = float(ledger.read_detail("group").get("threshold", same_person))
    boxes: dict[str, list[Sequence[float]]] = {}
    for face in read_faces_with_reason(ledger, [OPTED_OUT]):
        boxes.setdefault(face.photo_id, []).append(face.box)
    key = read_key(ledger) if rows else b""
    return KeptOutList(key, photos, np.array(examples, np.float32) if examples else None, threshold, boxes)


def open_kept_out_list(dataset: Path) -> KeptOutList:
    """Returns the list of the dataset in this folder, with the examples of the dataset's own recognizer."""
    with Ledger.open(dataset) as ledger:
        recognizers = read_recognizers(ledger)
        return read_kept_out_list(ledger, recognizers[0].sha256 if len(recognizers) == 1 else None)


def find_kept_out_reason(ledger: Ledger, photo: str) -> str | None:
    """Returns the reason why a photo is kept out, or None if it is not. `photo` is a path, or the photo's sha256."""
    key = read_key(ledger)
    marks = [hide_uri(key, uri_of(photo)), compute_mark(key, "photo", photo)]
    if Path(photo).is_file():
        marks.append(compute_mark(key, "photo", sha256_bytes(Path(photo).read_bytes())))
    for table, column in (("files", "uri"), ("kept_out", "mark")):
        reasons = ledger.query(f"SELECT reason FROM {table} WHERE list_contains(?, {column})", marks)["reason"]
        if len(reasons):
            return str(reasons[0])
    return None
