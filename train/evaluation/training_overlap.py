"""Check that a run was not trained on the people, or the photos, that it is measured on."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq

from manifests.errors import LedgerBroken
from manifests.ledger.ledger import Ledger
from train.benchmark.frozen_benchmark import Benchmark, is_benchmark, load_benchmark
from train.data.snapshot import FACES
from train.evaluation.cases import Case


def check_not_trained_on(dataset: Path, run: Path, cases: Sequence[Case]) -> bool:
    """Raise LedgerBroken where the run was trained on a person of the cases (under --split-by photos: on their photo).

    Answers whether it could be looked at: RUN/snapshot says what was trained on.
    """
    snapshot = run / "snapshot" / FACES
    if not snapshot.is_file():
        return False
    table = pq.read_table(snapshot, columns=["face_id", "split"]).to_pydict()
    trained = {face for face, split in zip(table["face_id"], table["split"], strict=True) if split == "train"}
    tested = [case.face_id for case in cases]
    kin = _kin(load_benchmark(dataset), set(tested)) if is_benchmark(dataset) else _kin_in_ledger(dataset, tested)
    for face, other in kin:
        if other in trained:
            raise LedgerBroken(
                f"{run} was trained on face {other[:12]}, of a person who is now in the set (face {face[:12]}): the "
                f"dataset has changed since. Train again, into another folder."
            )
    return True


def _kin(found: Benchmark, tested: set[str]) -> list[tuple[str, str]]:
    """Every tested face with every face of its person (under --split-by photos: of its photo) in the benchmark."""
    by = operator.attrgetter("person" if found.card["policy"] == "identity" else "photo")
    faces: dict[str, list[str]] = {}
    for line in found.faces:
        faces.setdefault(by(line), []).append(line.face)
    return [(line.face, other) for line in found.faces if line.face in tested for other in faces[by(line)]]


def _kin_in_ledger(dataset: Path, tested: list[str]) -> list[tuple[str, str]]:
    with Ledger.open(dataset) as ledger:
        kin = ledger.query(
            """SELECT a.face_id, b.face_id AS other FROM splits a JOIN faces fa USING (face_id)
               JOIN splits b ON b.identity_id = a.identity_id JOIN faces fb ON fb.face_id = b.face_id
               WHERE list_contains(?, a.face_id) AND (a.policy = 'identity' OR fa.photo_id = fb.photo_id)""",
            tested,
        )
    return list(kin.iter_rows())
