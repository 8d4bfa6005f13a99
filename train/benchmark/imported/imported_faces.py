"""Makes the faces of an imported set comparable with the training faces of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from curate.faces.interface import FaceModels
from curate.faces.measure import hash_face
from curate.people.leaks.dataset_faces import make_usual_rules
from curate.people.leaks.face_line import FaceLine
from train.benchmark.frozen_benchmark import hash_picture
from train.benchmark.set_faces import SetFaces


@dataclass(frozen=True)
class ImportedFaces:
    """Holds the images of one case of an imported set, uint8 (S, S, 3)."""

    name: str
    person: str  # If the set does not say who is on the image, this is the name of the case.
    image: np.ndarray  # The target, or the LQ image if the case has no target.
    is_degraded: bool  # True if `image` is the LQ image.
    references: Sequence[np.ndarray]


def list_imported_faces(
    cases: Iterable[ImportedFaces], recognizer: FaceModels, embed: Callable[[Sequence[np.ndarray]], np.ndarray]
) -> SetFaces:
    """Returns the faces of an imported set. A reference that several cases share counts as one face.

    `embed` computes the embeddings with `recognizer`. The thresholds are the usual thresholds of curation.
    `rules.false_match_rate` is NaN, because it cannot be measured with few people.
    """
    pictures: dict[str, tuple[str, np.ndarray]] = {}  # name of a face -> its person and its image
    degraded = set()
    for case in cases:
        pictures[case.name] = case.person, case.image
        if case.is_degraded:
            degraded.add(case.name)
        for image in case.references:
            pictures[f"reference {hash_picture(image)[:12]} of {case.person}"] = case.person, image
    lines = tuple(
        FaceLine(name, name, person, "set", hash_face(image), "0" * 16, (0.0, 0.0, 0.0, 0.0), None)
        for name, (person, image) in pictures.items()
    )
    vectors = np.stack([embed([image])[0] for _, image in pictures.values()])
    rules, own_hash = make_usual_rules(recognizer.same_person), recognizer.recognizer_sha256()
    rows = np.arange(len(lines))
    return SetFaces(lines, rows, vectors, "people", rules, own_hash, is_imported=True, degraded=frozenset(degraded))
