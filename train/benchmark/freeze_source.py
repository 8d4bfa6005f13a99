"""Reads the contents of a benchmark from a dataset's ledger: the frozen set, the references and the faces."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from curate.people.leaks.dataset_faces import Rules, read_faces, read_policy, read_rules
from curate.people.leaks.face_line import FaceLine
from manifests.errors import BadInput
from manifests.ledger.decisions.applied_decisions import check_decisions_applied
from manifests.ledger.ledger import Ledger
from manifests.ledger.queries import read_recognizer, read_set_detail
from train.benchmark.crop_geometry import CropGeometry, read_geometries
from train.benchmark.draw_references import CaseFaces, draw_references, name_people

# This query returns each frozen set with the splits of its faces.
SETS_WITH_SPLITS = """
    SELECT lq_set, list(DISTINCT split ORDER BY split) FROM degradations JOIN splits USING (face_id)
    WHERE status = 'ok' GROUP BY lq_set ORDER BY lq_set"""


@dataclass(frozen=True)
class FreezeSource:
    """Holds the data from which a benchmark is made. People have the names that `name_people` gives them."""

    dataset: Path
    set_name: str
    degradations: dict[str, dict[str, Any]]  # face id -> row of the table `degradations`
    cases: list[CaseFaces]
    geometries: dict[str, CropGeometry]  # the position of each target's crop in its photo, by face id
    faces: list[FaceLine]
    vectors: np.ndarray  # float32 (n, d) unit embeddings, in the order of `faces`
    rules: Rules
    policy: str
    recognizer: dict[str, Any]  # sha256 and dim
    engine: str

    def find_lq_file(self, face: str) -> Path:
        """Returns the path of the LQ image of a face."""
        return self.dataset / "lq" / self.set_name / f"{face}.png"


def read_source(dataset: Path, lq_set: str | None, split: str, references: int, seed: int) -> FreezeSource:
    """Reads the frozen set named `lq_set`, or the only frozen set of the split.

    Raises BadInput if the set does not exist, if the set is not finished, or if no target has a reference.
    """
    with Ledger.open(dataset) as ledger:
        check_decisions_applied(ledger)
        name = _choose_set(ledger, lq_set, split)
        people = name_people(ledger)
        _, cases = draw_references(ledger, name, references, seed, by_face=True)
        if not cases:
            raise BadInput(f"No face of the set {name} has a reference, so nothing was frozen: give another --set.")
        rows = ledger.query("SELECT * FROM degradations WHERE lq_set = ? ORDER BY face_id", name)
        faces, recognizer = read_faces(ledger), read_recognizer(ledger)
        return FreezeSource(
            dataset,
            name,
            {row["face_id"]: row for row in rows.iter_rows(named=True)},
            cases,
            read_geometries(ledger, [case.face_id for case in cases]),
            [replace(line, person=people.get(line.person, line.person)) for line in faces],
            ledger.read_embeddings([line.face for line in faces])[1],
            read_rules(ledger),
            read_policy(ledger),
            {"sha256": recognizer.sha256, "dim": recognizer.dim},
            (read_set_detail(ledger, name) or {}).get("engine", "exact"),
        )


def _choose_set(ledger: Ledger, name: str | None, split: str) -> str:
    """Returns `name` if it is a frozen set of the split. If `name` is None, returns the only set of the split."""
    splits_of: dict[str, list[str]] = dict(ledger.query(SETS_WITH_SPLITS).iter_rows())
    if name is not None:
        if name not in splits_of:
            raise BadInput(
                f"The dataset has no frozen set {name}: give one of its sets with --set "
                f"({', '.join(splits_of) or 'the dataset has no set'})."
            )
        if splits_of[name] != [split]:
            raise BadInput(
                f"The set {name} contains faces of {' and '.join(splits_of[name])}, but --split is {split}: give the "
                "split of the set."
            )
        return name
    names = [name for name, splits in splits_of.items() if splits == [split]]
    if not names:
        raise BadInput(
            f"{ledger.dataset} has no frozen set of the split {split}: make one with `likeness degrade "
            f"{ledger.dataset} --split {split}`."
        )
    if len(names) > 1:
        raise BadInput(
            f"The split {split} has {len(names)} frozen sets: give one of these sets with --set ({', '.join(names)})."
        )
    return names[0]
