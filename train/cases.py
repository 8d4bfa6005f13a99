"""The cases of a frozen set: what a restorer is shown, what it is compared to, and that it was not trained on them."""

from __future__ import annotations

import hashlib
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
    wrong: tuple[np.ndarray, ...] = ()  # uint8 (S, S, 3), K of another person; none where nobody has as many photos
    wrong_embeddings: np.ndarray | None = None  # float32 (K, d)
    wrong_identity_id: str | None = None


@dataclass(frozen=True)
class FrozenSet:
    """A frozen set as it is measured."""

    name: str
    images: int  # in the set; those whose person has no other usable photo have no case
    cases: tuple[Case, ...]  # ordered by face id


def read_cases(dataset: Path, size: int, lq_set: str | None, references: int, seed: int) -> FrozenSet:
    """The frozen set of that name, or the one test set of the restorer's size.

    References are drawn from all usable photos of the same person on the side that a restorer may see, by a stable
    hash of (seed, face): never by likeness to the target, which nobody has when restoring. Wrong references are as
    many photos of another person of the set, see _draw_wrong. Raises BadInput for a set that is not there, not finished
    or of another size, LedgerBroken for an image that is not the frozen one.
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
        shown_by = ledger.query(
            """SELECT r.identity_id, r.face_id, g.photo_id FROM splits r JOIN faces g USING (face_id)
               WHERE r.status = 'ok' AND g.status = 'ok' AND (r.identity_id, r.split) IN (
                   SELECT s.identity_id, CASE WHEN s.policy = 'photos' THEN 'train' ELSE s.split END
                   FROM degradations d JOIN splits s USING (face_id) WHERE d.lq_set = ?)""",
            name,
        )
        photo_of = dict(ledger.query("SELECT face_id, photo_id FROM faces WHERE status = 'ok'").iter_rows())
        pool: dict[str, list[tuple[str, str]]] = {}
        for person, face, photo in shown_by.iter_rows():
            pool.setdefault(person, []).append((face, photo))
        chosen = []
        for face, person, refs in found.iter_rows():
            right = _draw(refs, references, face, seed)
            stranger, wrong = _draw_wrong(pool, person, photo_of[face], len(right), face, seed)
            chosen.append((face, person, right, stranger, wrong))
        wanted = sorted({ref for _, _, right, _, wrong in chosen for ref in (*right, *wrong)})
        vector = dict(zip(*ledger.embeddings(wanted), strict=True))
    if not chosen:
        raise BadInput(f"No face of the set {name} has a reference: nothing can be measured.")
    shown = {*wanted, *(face for face, *_ in chosen)}
    crops = {face: shrink(_png(crop_path(dataset, face)), size) for face in shown}
    cases = tuple(
        Case(
            face,
            person,
            _png(dataset / "lq" / name / f"{face}.png", frozen[face]),
            crops[face],
            tuple(crops[ref] for ref in right),
            np.stack([vector[ref] for ref in right]),
            tuple(crops[ref] for ref in wrong),
            np.stack([vector[ref] for ref in wrong]) if wrong else None,
            stranger,
        )
        for face, person, right, stranger, wrong in chosen
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


def _draw_wrong(
    pool: dict[str, list[tuple[str, str]]], person: str, photo: str, count: int, face: str, seed: int
) -> tuple[str | None, list[str]]:
    """Another person of the pool (faces with their photos, by person) and `count` of their faces.

    Whoever, and whichever, has the smallest hash of (seed, face, candidate): a dataset that grows by a person or a
    photo changes a draw only where the newcomer wins it. None and nothing where nobody else has so many.
    """
    others = {
        other: [one for one, where in faces if where != photo] for other, faces in pool.items() if other != person
    }

    def rank(candidate: str) -> bytes:
        return hashlib.sha256(json.dumps([seed, "wrong references", face, candidate]).encode()).digest()

    stranger = min((other for other, faces in others.items() if len(faces) >= count), key=rank, default=None)
    return stranger, sorted(others[stranger], key=rank)[:count] if stranger is not None else []


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
