"""The cases of a frozen set: what a restorer is shown, what it is compared to, and that it was not trained on them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq

from degrade.operations import shrink
from degrade.presets import seeded
from manifests.errors import BadInput, LedgerBroken
from manifests.ledger import Ledger
from manifests.storage import crop_path, sha256_bytes
from train.snapshot import FACES


@dataclass(frozen=True)
class Case:
    """One image of a frozen set with what it is compared to and what the restorer may see."""

    face_id: str
    identity_id: str
    lq: np.ndarray  # uint8 (S, S, 3)
    target: np.ndarray  # uint8 (S, S, 3)
    references: tuple[np.ndarray, ...]  # uint8 (S, S, 3)
    reference_embeddings: np.ndarray  # float32 (K, d)


@dataclass(frozen=True)
class FrozenSet:
    """A frozen set as it is measured."""

    name: str
    images: int  # in the set; those whose person has no other usable photo have no case
    cases: tuple[Case, ...]  # ordered by face id


def read_cases(dataset: Path, size: int, lq_set: str | None, references: int, seed: int) -> FrozenSet:
    """The frozen set of that name, or the one test set of the restorer's size.

    References are drawn from all usable photos of the same person on the side that a restorer may see, by a stable
    hash of (seed, face): never by likeness to the target, which nobody has when restoring. Raises BadInput for a set
    that is not there, not finished or of another size, LedgerBroken for an image that is not the frozen one.
    """
    with Ledger.open(dataset) as ledger:
        name = _choose_set(ledger, lq_set, size)
        frozen = dict(ledger.query("SELECT face_id, sha256 FROM degradations WHERE lq_set = ?", name).iter_rows())
        begun = ledger.query("SELECT detail FROM stages WHERE stage = 'degrade' AND unit = ?", name)
        if len(begun) and len(json.loads(begun["detail"][0])["faces"]) != len(frozen):
            raise BadInput(f"The set {name} is not finished: run the same `likeness degrade` command again.")
        found = ledger.query(
            """SELECT d.face_id, s.identity_id, list(r.face_id ORDER BY r.face_id) AS refs
               FROM degradations d JOIN splits s USING (face_id) JOIN faces f USING (face_id)
               JOIN splits r ON r.identity_id = s.identity_id AND r.status = 'ok'
                   AND r.split = CASE WHEN s.policy = 'photos' THEN 'train' ELSE s.split END
               JOIN faces g ON g.face_id = r.face_id AND g.photo_id <> f.photo_id AND g.status = 'ok'
               WHERE d.lq_set = ? AND s.status = 'ok' GROUP BY ALL ORDER BY d.face_id""",
            name,
        )
        chosen = [(face, person, _draw(refs, references, face, seed)) for face, person, refs in found.iter_rows()]
        wanted = sorted({ref for _, _, refs in chosen for ref in refs})
        vector = dict(zip(*ledger.embeddings(wanted), strict=True))
    if not chosen:
        raise BadInput(f"No face of the set {name} has a reference: nothing can be measured.")
    crops = {face: shrink(_png(crop_path(dataset, face)), size) for face in {*wanted, *(face for face, _, _ in chosen)}}
    cases = tuple(
        Case(
            face,
            person,
            _png(dataset / "lq" / name / f"{face}.png", frozen[face]),
            crops[face],
            tuple(crops[ref] for ref in refs),
            np.stack([vector[ref] for ref in refs]),
        )
        for face, person, refs in chosen
    )
    return FrozenSet(name, len(frozen), cases)


def refuse_seen(dataset: Path, run: Path, cases: Sequence[Case]) -> bool:
    """Raise LedgerBroken where the run was trained on a person of the cases (under --split photos: on a photo of them).

    Answers whether it could be looked at: RUN/snapshot says what was trained on.
    """
    snapshot = run / "snapshot" / FACES
    if not snapshot.is_file():
        return False
    table = pq.read_table(snapshot, columns=["face_id", "split"]).to_pydict()
    trained = {face for face, split in zip(table["face_id"], table["split"], strict=True) if split == "train"}
    tested = [case.face_id for case in cases]
    with Ledger.open(dataset) as ledger:
        kin = ledger.query(
            """SELECT a.face_id, b.face_id AS other FROM splits a JOIN faces fa USING (face_id)
               JOIN splits b ON b.identity_id = a.identity_id JOIN faces fb ON fb.face_id = b.face_id
               WHERE list_contains(?, a.face_id) AND (a.policy = 'identity' OR fa.photo_id = fb.photo_id)""",
            tested,
        )
    for face, other in kin.iter_rows():
        if other in trained:
            raise LedgerBroken(
                f"{run} was trained on face {other[:12]}, of a person who is now in the set (face {face[:12]}): the "
                f"dataset has changed since. Train again, into another folder."
            )
    return True


def _choose_set(ledger: Ledger, wanted: str | None, size: int) -> str:
    sets = dict(ledger.query("SELECT DISTINCT lq_set, size FROM degradations").iter_rows())
    if wanted is not None:
        if wanted not in sets:
            raise BadInput(f"There is no frozen set {wanted}; there are: {', '.join(sorted(sets)) or 'none'}.")
        if sets[wanted] != size:
            raise BadInput(f"The set {wanted} has {sets[wanted]} px images, the restorer works at {size} px.")
        return wanted
    fitting = sorted(name for name, pixels in sets.items() if pixels == size and "-test-" in name)
    if len(fitting) != 1:
        told = f"{len(fitting)} fit: {', '.join(fitting)}; say which with --set." if fitting else (
            f"make one with `likeness degrade {ledger.dataset} --split test --size {size}`."
        )  # fmt: skip
        raise BadInput(f"The restorer needs a frozen test set of {size} px; {told}")
    return fitting[0]


def _draw(refs: Sequence[str], count: int, face: str, seed: int) -> list[str]:
    order = seeded(seed, "references", face).permutation(len(refs))[:count]
    return [refs[i] for i in order]


def _png(path: Path, sha256: str | None = None) -> np.ndarray:
    """RGB uint8 (H, W, 3) of a PNG of the dataset; with `sha256`, of exactly that file."""
    try:
        data = path.read_bytes()
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except (OSError, cv2.error):
        data, pixels = b"", None
    if pixels is None or (sha256 is not None and sha256_bytes(data) != sha256):
        raise LedgerBroken(f"{path} is missing, broken or changed: run `likeness manifest check` on the dataset.")
    return np.ascontiguousarray(pixels[:, :, ::-1])
