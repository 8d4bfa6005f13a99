"""Who must stay out: what the ledger remembers of them, and what every stage asks it.

Of a photo an HMAC of its sha256 under the dataset's own key is kept, which tells nothing to whoever has not got the
key. Of a face its embedding is kept, which is biometric data, and only where somebody asked for that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from manifests.ledger.decision_log import MIN_OVERLAP, measure_overlap
from manifests.ledger.ledger import Ledger
from manifests.ledger.records import KeptOutMark
from manifests.privacy.erase import OPTED_OUT
from manifests.privacy.keys import compute_mark, hide_uri, read_key
from manifests.runtime.files import sha256_bytes
from manifests.runtime.uris import uri_of


@dataclass(frozen=True)
class KeptOutList:
    """What must not come in. It travels to worker processes."""

    key: bytes = b""
    photos: Mapping[str, str] = field(default_factory=dict)  # mark -> opted_out or purged
    examples: np.ndarray | None = None  # float32 (k, d) unit rows of one recognizer
    threshold: float = 2.0  # cosine from which a face is that of an example
    boxes: Mapping[str, Sequence[Sequence[float]]] = field(default_factory=dict)  # photo -> faces opted out before

    def reason_for(self, sha256: str) -> str | None:
        """The reason for which a photo is kept out, None where it may come in."""
        return self.photos.get(compute_mark(self.key, "photo", sha256)) if self.photos else None

    def covers(self, photo_id: str, box: Sequence[float]) -> bool:
        """Whether a face opted out before lies here."""
        return any(measure_overlap(box, other) >= MIN_OVERLAP for other in self.boxes.get(photo_id, ()))

    def matches(self, vectors: np.ndarray) -> np.ndarray:
        """bool (n,): which unit embeddings (n, d) are those of an example."""
        if self.examples is None or not len(vectors):
            return np.zeros(len(vectors), bool)
        return np.asarray((vectors @ self.examples.T).max(1) >= self.threshold)


NOBODY_KEPT_OUT = KeptOutList()


def read_kept_out_list(ledger: Ledger, recognizer: str | None = None, same_person: float = 2.0) -> KeptOutList:
    """The list of a dataset. `recognizer` is the sha256 of the one whose embeddings are compared; their threshold is
    that of the last grouping, else `same_person`."""
    if not ledger.has_table("kept_out"):
        return NOBODY_KEPT_OUT
    rows = ledger.read_rows(KeptOutMark)
    photos = {row.mark: row.reason for row in rows if row.kind == "photo"}
    examples = [row.embedding for row in rows if row.embedding is not None and row.recognizer == recognizer]
    threshold = float(ledger.read_detail("group").get("threshold", same_person))
    dropped = ledger.query("SELECT photo_id, box FROM faces WHERE reason = ? ORDER BY face_id", OPTED_OUT)
    boxes: dict[str, list[Sequence[float]]] = {}
    for photo, box in dropped.iter_rows():
        boxes.setdefault(photo, []).append(box)
    key = read_key(ledger) if rows else b""
    return KeptOutList(key, photos, np.array(examples, np.float32) if examples else None, threshold, boxes)


def open_kept_out_list(dataset: Path) -> KeptOutList:
    """The list of a dataset, with examples of the recognizer that it was made with."""
    with Ledger.open(dataset) as ledger:
        found = ledger.query("SELECT sha256 FROM models WHERE role = 'recognizer'")["sha256"]
        return read_kept_out_list(ledger, str(found[0]) if len(found) == 1 else None)


def find_kept_out_reason(ledger: Ledger, told: str) -> str | None:
    """The reason for which a file, or a photo by its whole hash, is kept out; None where it is not."""
    key = read_key(ledger)
    names = [hide_uri(key, uri_of(told)), compute_mark(key, "photo", told)]
    if Path(told).is_file():
        names.append(compute_mark(key, "photo", sha256_bytes(Path(told).read_bytes())))
    for table, column in (("files", "uri"), ("kept_out", "mark")):
        if not ledger.has_table(table):
            continue
        hit = ledger.query(f"SELECT reason FROM {table} WHERE list_contains(?, {column})", names)["reason"]
        if len(hit):
            return str(hit[0])
    return None
