"""Counts the problems of an imported set, and searches its images for faces."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from curate.faces.align import FFHQ_512, FFHQ_SIZE, scale_template
from curate.faces.interface import Detection, FaceModels
from train.data.landmarks import detect_faces_in_all
from train.evaluation.cache.cache_file import EvaluationCache
from train.evaluation.cache.keys import hash_faces, hash_inputs
from train.evaluation.sets.cases import FrozenSet

# A face counts as not aligned if its five points are on average farther from the FFHQ template than this fraction
# (ours) of the side: 51 px for a side of 512 px.
FAR_FROM_TEMPLATE = 0.1
NO_FACE, SEVERAL_FACES, NOT_ALIGNED = "no_face", "several_faces", "not_aligned"
_MEANINGS = {
    NO_FACE: "{} in which the judge finds no face",
    SEVERAL_FACES: "{} in which the judge finds several faces (only the face at the aligned position is measured)",
    NOT_ALIGNED: "{} whose face is not in the position of an aligned face, so their identity says little",
}


def find_face_problem(faces: Sequence[Detection], side: int) -> str | None:
    """Returns NO_FACE, SEVERAL_FACES or NOT_ALIGNED for an image that should be one aligned face, or None.

    `faces` are the faces that the judge found in the image, and `side` is the side of the image in pixels.
    """
    if len(faces) != 1:
        return SEVERAL_FACES if faces else NO_FACE
    template = scale_template(FFHQ_512, FFHQ_SIZE, side)
    apart = float(np.linalg.norm(faces[0].landmarks5 - template, axis=1).mean())
    return NOT_ALIGNED if apart > FAR_FROM_TEMPLATE * side else None


def count_set_problems(frozen_set: FrozenSet, judge: FaceModels, cache: EvaluationCache) -> dict[str, int] | None:
    """Maps each problem of an imported set to the number of files with this problem. Returns None for a set of
    Likeness.

    The result has the problems that the import counted, and the face problems of the LQ images, the targets and the
    references. The judge searches for the faces, and `cache` keeps the results of the search. An image that several
    cases share is counted once.
    """
    if not frozen_set.is_imported:
        return None
    counts, judge_hash = dict(frozen_set.problems), hash_faces(judge)
    images = {
        "LQ images": [case.lq for case in frozen_set.cases],
        "targets": [case.target for case in frozen_set.cases if case.target is not None],
        "references": [image for case in frozen_set.cases for image in case.references],
    }
    for what, every in images.items():
        by_id = {id(image): image for image in every}
        keys = {one: hash_inputs("face problem", judge_hash, image) for one, image in by_id.items()}
        entries = {key: cache.get(key) for key in keys.values()}
        unknown = {key: by_id[one] for one, key in keys.items() if entries[key] is None}
        for key, faces in zip(unknown, detect_faces_in_all(list(unknown.values()), judge), strict=True):
            entry = (find_face_problem(faces, len(unknown[key])) or "").encode()
            entries[key] = entry
            cache.put(key, entry)
        for key in keys.values():
            if problem := entries[key]:
                meaning = _MEANINGS[problem.decode()].format(what)
                counts[meaning] = counts.get(meaning, 0) + 1
    return counts
