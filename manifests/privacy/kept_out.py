"""Who must stay out: what the ledger remembers of them, and what every stage asks it.

Of a photo an HMAC of its sha256 under the dataset's own key is kept, which tells nothing to whoever has not got the
key. Of a face its embedding is kept, which is biometric data, and only where somebody asked for that.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from manifests.errors import BadInput
from manifests.ledger.decision_log import MIN_OVERLAP, overlap
from manifests.ledger.ledger import Ledger
from manifests.ledger.records import KeptOut
from manifests.privacy.keys import key_of, mark
from manifests.privacy.purge import OPTED_OUT, Plan, plan_purge
from manifests.runtime.archives import is_archive
from manifests.runtime.files import sha256_file


@dataclass(frozen=True)
class KeptOutList:
    """What must not come in. It travels to worker processes."""

    key: bytes = b""
    photos: Mapping[str, str] = field(default_factory=dict)  # mark -> opted_out or purged
    examples: np.ndarray | None = None  # float32 (k, d) unit rows of one recognizer
    threshold: float = 2.0  # cosine from which a face is that of an example
    boxes: Mapping[str, Sequence[Sequence[float]]] = field(default_factory=dict)  # photo -> faces opted out before

    def photo(self, sha256: str) -> str | None:
        """The reason for which a photo is kept out, None where it may come in."""
        return self.photos.get(mark(self.key, "photo", sha256)) if self.photos else None

    def box(self, photo_id: str, box: Sequence[float]) -> bool:
        """Whether a face opted out before lies here."""
        return any(overlap(box, other) >= MIN_OVERLAP for other in self.boxes.get(photo_id, ()))

    def alike(self, vectors: np.ndarray) -> np.ndarray:
        """bool (n,): which unit embeddings (n, d) are those of an example."""
        if self.examples is None or not len(vectors):
            return np.zeros(len(vectors), bool)
        return np.asarray((vectors @ self.examples.T).max(1) >= self.threshold)


NOBODY = KeptOutList()


def kept_out_of(ledger: Ledger, recognizer: str | None = None, same_person: float = 2.0) -> KeptOutList:
    """The list of a dataset. `recognizer` is the sha256 of the one whose embeddings are compared; their threshold is
    that of the last grouping, else `same_person`."""
    if not ledger.has("kept_out"):
        return NOBODY
    rows = ledger.rows(KeptOut)
    photos = {row.mark: row.reason for row in rows if row.kind == "photo"}
    examples = [row.embedding for row in rows if row.embedding is not None and row.recognizer == recognizer]
    threshold = float(ledger.detail("group").get("threshold", same_person))
    dropped = ledger.query("SELECT photo_id, box FROM faces WHERE reason = ? ORDER BY face_id", OPTED_OUT)
    boxes: dict[str, list[Sequence[float]]] = {}
    for photo, box in dropped.iter_rows():
        boxes.setdefault(photo, []).append(box)
    key = key_of(ledger) if rows else b""
    return KeptOutList(key, photos, np.array(examples, np.float32) if examples else None, threshold, boxes)


def kept_out_in(dataset: Path) -> KeptOutList:
    """The list of a dataset, with examples of the recognizer that it was made with."""
    with Ledger.open(dataset) as ledger:
        found = ledger.query("SELECT sha256 FROM models WHERE role = 'recognizer'")["sha256"]
        return kept_out_of(ledger, str(found[0]) if len(found) == 1 else None)


def read_list(file: Path) -> list[str]:
    """A photo a line: a path, or the sha256 of its bytes. Raises BadInput where it cannot be read or names none."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"--list {file} cannot be read as text ({error.__class__.__name__}): name a file.") from None
    found = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not found:
        raise BadInput(f"--list {file} names no photo: write a path or a sha256 on each line.")
    return found


def plan_optout(dataset: Path, photos: Sequence[str], runs: Sequence[Path] = ()) -> Plan:
    """What opting these photos out takes: those that are in the dataset go as by a purge, the others are kept out.

    Each is the sha256 of a file's bytes, a file, or what the dataset knows a photo by. Raises BadInput for the rest.
    """
    inside: list[str] = []
    outside: set[str] = set()
    with Ledger.open(dataset) as ledger:
        known = set(ledger.query("SELECT photo_id FROM photos")["photo_id"])
    for told in photos:
        path = Path(told)
        if re.fullmatch(r"[0-9a-fA-F]{64}", told):
            sha256 = told.lower()
        elif path.is_file():
            with path.open("rb") as file:
                if is_archive(file.read(512)):
                    raise BadInput(f"{path} is an archive: name each photo in it, as {path.name}/PHOTO, or its sha256.")
            sha256 = sha256_file(path)
        else:
            inside.append(told)
            continue
        if sha256 in known:
            inside.append(sha256)
        else:
            outside.add(sha256)
    plan = plan_purge(dataset, (), inside, runs, OPTED_OUT)
    return replace(plan, kept_out=tuple(sorted(outside)))
