"""Read the cases of an imported benchmark, restore them at the size of the restorer, and look for faces in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from curate.faces.align import FFHQ_512, FFHQ_SIZE, scale_template
from curate.faces.interface import FaceModels
from train.benchmark.imported.imported_benchmark import (
    ImportedCase,
    SetPicture,
    load_imported,
    read_pictures,
    resize_square,
)
from train.benchmark.imported.match_files import PROBLEMS
from train.data.landmarks import detect_faces
from train.evaluation.cache.cache_file import EvaluationCache
from train.evaluation.cache.cached_restorations import RestoreCases
from train.evaluation.cache.keys import hash_faces, hash_inputs
from train.evaluation.cases import Case, FrozenSet
from train.evaluation.restore_case import RestoredCase, make_embedder
from train.evaluation.systems import System

# A face counts as not aligned if its five points are on average farther from the FFHQ template than this fraction of
# the side (ours): 51 px for a side of 512 px.
FAR_FROM_TEMPLATE = 0.1
NO_FACE, SEVERAL_FACES, NOT_ALIGNED = "no_face", "several_faces", "not_aligned"
_MEANINGS = {
    NO_FACE: "{} in which the judge finds no face",
    SEVERAL_FACES: "{} in which the judge finds several faces (measured is the position of an aligned face)",
    NOT_ALIGNED: "{} whose face is not in the position of an aligned face, so their identity says little",
}


def read_imported_set(
    folder: Path,
    files: Path | None,
    references: int,
    most_references: int | None = None,
    recognizer: FaceModels | None = None,
) -> FrozenSet:
    """Reads the cases of an imported benchmark, each with its first `references` references and wrong references.

    With `most_references`, a case has more references, up to this number. All images have the size of the set. `files`
    is the folder of the published set, if the benchmark has no copies of the photos. `recognizer` computes the
    embeddings of the references for a restorer. Without `recognizer`, the embeddings have no values, and the cases can
    be measured but not restored. Raises BadInput if the benchmark cannot be read. Raises LedgerBroken if a file of the
    set is missing or has changed.
    """
    benchmark = load_imported(folder)
    most, card = max(references, most_references or 0), benchmark.card

    def list_used(case: ImportedCase) -> list[SetPicture]:
        own = [case.lq, *([case.target] if case.target else [])]
        return [*own, *case.references[:most], *case.wrong_references[:references]]

    pictures = read_pictures(benchmark, [one for case in benchmark.cases for one in list_used(case)], files)
    crops = {one.file for case in benchmark.cases for one in case.references[:most]}
    crops |= {one.file for case in benchmark.cases for one in case.wrong_references[:references]}
    embedding = {file: np.zeros(0, np.float32) for file in crops}
    if recognizer is not None:
        embed = make_embedder(recognizer)
        embedding = {file: embed([pictures[file]])[0] for file in sorted(crops)}
    width = 0 if recognizer is None else recognizer.dim

    def make_case(case: ImportedCase) -> Case:
        right = [one.file for one in case.references[:most]]
        wrong = [one.file for one in case.wrong_references[:references]]
        return Case(
            case.name,
            case.name if case.person is None else case.person,
            pictures[case.lq.file],
            pictures[case.target.file] if case.target else None,
            tuple(pictures[file] for file in right),
            np.array([embedding[file] for file in right], np.float32).reshape(len(right), width),
            tuple(pictures[file] for file in wrong),
            np.array([embedding[file] for file in wrong], np.float32).reshape(len(wrong), width) if wrong else None,
            case.wrong_person,
        )

    return FrozenSet(
        card["name"],
        card["images_in_set"],
        tuple(map(make_case, benchmark.cases)),
        is_imported=True,
        has_targets=all(case.target is not None for case in benchmark.cases),
        people_known=all(case.person is not None for case in benchmark.cases),
        problems={PROBLEMS[kind]: len(card["problems"][kind]) for kind in PROBLEMS if kind in card["problems"]},
    )


def restore_at_size(restore: RestoreCases, size: int) -> RestoreCases:
    """Returns a function that restores cases of any size with a restorer that works at `size` pixels.

    The images of a case are resized to `size`, and the restored image is resized to the size of the set (see
    `resize_square`). So every method is measured at the size of the published set.
    """

    def resize_all(images: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
        return tuple(resize_square(image, size) for image in images)

    def restore_resized(cases: Sequence[Case], systems: Sequence[System]) -> dict[tuple[str, str], RestoredCase]:
        small = [
            replace(
                case,
                lq=resize_square(case.lq, size),
                references=resize_all(case.references),
                wrong=resize_all(case.wrong),
            )
            for case in cases
        ]
        sizes, restored = {case.face_id: case.size for case in cases}, restore(small, systems)
        return {
            place: one if one.image is None else replace(one, image=resize_square(one.image, sizes[place[0]]))
            for place, one in restored.items()
        }

    return restore_resized


def find_face_problem(image: np.ndarray, judge: FaceModels) -> str | None:
    """Returns NO_FACE, SEVERAL_FACES or NOT_ALIGNED for an image that should be one aligned face, or None.

    `image` is uint8 (S, S, 3).
    """
    faces, side = detect_faces(image, judge), image.shape[0]
    if len(faces) != 1:
        return SEVERAL_FACES if faces else NO_FACE
    template = scale_template(FFHQ_512, FFHQ_SIZE, side)
    apart = float(np.linalg.norm(faces[0].landmarks5 - template, axis=1).mean())
    return NOT_ALIGNED if apart > FAR_FROM_TEMPLATE * side else None


def count_set_problems(frozen_set: FrozenSet, judge: FaceModels, cache: EvaluationCache) -> dict[str, int] | None:
    """Returns what does not fit in an imported set, with the number of files. Returns None for a set of Likeness.

    The result has the problems that the import counted, and the face problems of the LQ images, the targets and the
    references. The judge finds the faces, and `cache` keeps what it finds. An image that several cases share is counted
    once.
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
        for image in {id(image): image for image in every}.values():
            key = hash_inputs("face problem", judge_hash, image)
            entry = cache.get(key)
            if entry is None:
                entry = (find_face_problem(image, judge) or "").encode()
                cache.put(key, entry)
            if entry:
                meaning = _MEANINGS[entry.decode()].format(what)
                counts[meaning] = counts.get(meaning, 0) + 1
    return counts
