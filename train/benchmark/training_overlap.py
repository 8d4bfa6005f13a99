"""Check that a run was not trained on the people or the photos of the frozen set that measures the run."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq

from manifests.errors import LedgerBroken
from manifests.ledger.ledger import Ledger
from train.benchmark.frozen_benchmark import Benchmark, is_benchmark, load_benchmark
from train.data.snapshot import FACES

# This query returns each target with each face of its person. With --split-by photos, the query returns each target
# with each face of its photo instead.
FACES_TO_AVOID = """
    SELECT a.face_id, b.face_id AS other FROM splits a JOIN faces fa USING (face_id)
    JOIN splits b ON b.identity_id = a.identity_id JOIN faces fb ON fb.face_id = b.face_id
    WHERE list_contains(?, a.face_id) AND (a.policy = 'identity' OR fa.photo_id = fb.photo_id)"""


def check_not_trained_on(dataset: Path, run: Path, targets: Sequence[str]) -> bool:
    """Raises LedgerBroken if the run was trained on the person of a target. `targets` are face ids.

    If the dataset was split by photos, the error means that the run was trained on the photo of a target. `dataset` may
    be a benchmark. Returns True if the run was checked. Returns False if the run has no folder `snapshot`, which lists
    the faces of the training.
    """
    snapshot = run / "snapshot" / FACES
    if not snapshot.is_file():
        return False
    table = pq.read_table(snapshot, columns=["face_id", "split"]).to_pydict()
    training_faces = {face for face, split in zip(table["face_id"], table["split"], strict=True) if split == "train"}
    if is_benchmark(dataset):
        pairs = _find_related_faces(load_benchmark(dataset), set(targets))
    else:
        with Ledger.open(dataset) as ledger:
            pairs = list(ledger.query(FACES_TO_AVOID, list(targets)).iter_rows())
    for target, other in pairs:
        if other in training_faces:
            raise LedgerBroken(
                f"{run} was trained on face {other[:12]}, but the frozen set contains the same person (face "
                f"{target[:12]}). The dataset changed after the training: train again into a new folder."
            )
    return True


def _find_related_faces(benchmark: Benchmark, targets: set[str]) -> list[tuple[str, str]]:
    """Returns (target, face) for each face of a target's person.

    If the dataset was split by photos, the result has the faces of the target's photo instead.
    """
    get_group = operator.attrgetter("person" if benchmark.card["policy"] == "identity" else "photo")
    faces: dict[str, list[str]] = {}
    for line in benchmark.faces:
        faces.setdefault(get_group(line), []).append(line.face)
    return [(line.face, other) for line in benchmark.faces if line.face in targets for other in faces[get_group(line)]]
