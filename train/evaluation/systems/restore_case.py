"""Restore a case as a system says, with the same check of the references as `restore`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from curate.faces.interface import FaceModels
from curate.faces.measure import measure_sharpness
from train.benchmark.imported.imported_benchmark import resize_square
from train.data.landmarks import find_landmarks
from train.data.mesh import find_warp_points, warps_references
from train.evaluation.sets.cases import Case
from train.evaluation.sets.embedder import make_embedder
from train.evaluation.systems.system import System, select_references
from train.restore.batches.face_batches import FaceInput, NotFinite, raise_errors
from train.restore.batches.photo_pipeline import Step, Steps
from train.restore.references.confirm_references import REFERENCE_PARTS, NotRestoredYet, confirm_references
from train.restore.references.reference_photos import (
    References,
    join_references,
    limit_references,
    warp_references,
)
from train.restore.restorers.face_restorer import FaceRestorer, needs_reference


@dataclass(frozen=True)
class RestoredCase:
    """Holds the restoration of one case for one system."""

    references: int  # Number of references that the system gave.
    left_out: int  # Number of these references that do not seem to show the person of the LQ image.
    image: np.ndarray | None  # uint8 (S, S, 3), or None if the restored image contains NaN or infinity.


# Maps cases and systems to the restoration of each case for each system. The keys are the face id of the case and the
# key of the system. A case has no restoration for a system if `choose_photos` returns None.
RestoreCases = Callable[[Sequence[Case], Sequence[System]], dict[tuple[str, str], RestoredCase]]


def restore_case(
    case: Case, systems: Sequence[System], restorer: FaceRestorer, recognizer: FaceModels
) -> Steps[list[RestoredCase]]:
    """Restores a case for several systems. `choose_photos` must not return None for any of these systems.

    This function is a generator, as `restore_photo` (train/restore/restore_photo.py). `recognizer` embeds faces and
    finds landmarks for the restorer. As in `restore`, references that do not seem to show the person of the LQ image
    are left out (train/restore/references/confirm_references.py). References are not left out if the system trusts
    them, or if the restorer uses no references. If the recipe warps references, the function warps the references to
    the landmarks on the LQ image, as in `restore`.
    """
    embed, parts = make_embedder(recognizer), restorer.config.parts
    checks = bool(REFERENCE_PARTS & set(parts))
    nothing = FaceInput(case.lq, join_references((), case.lq.shape[0], recognizer.dim))
    alone: list[np.ndarray | Exception] = []  # the image after a restoration without references

    # All systems of the case share the results of the cached functions.
    @cache
    def embed_restored() -> np.ndarray:
        if not alone:
            raise NotRestoredYet
        # An image with NaN or infinity gets an embedding of zeros, which confirms no reference.
        return np.zeros(recognizer.dim, np.float32) if (image := _to_image(alone[0])) is None else embed([image])[0]

    @cache
    def embed_input() -> np.ndarray:
        return embed([case.lq])[0]

    def find_points(crop: np.ndarray) -> np.ndarray | None:
        return find_warp_points(parts, crop, find_landmarks(crop, recognizer))

    @cache
    def find_lq_points() -> np.ndarray | None:
        return find_points(case.lq)

    def is_confirmed(references: References) -> bool:
        vectors, sharpness = references.embeddings, measure_sharpness(case.lq)
        restored = None if needs_reference(restorer.facts) else embed_restored
        return confirm_references(embed_input(), sharpness, vectors, recognizer.same_person, restored).confirmed

    def leaves_out(system: System, references: References) -> bool:
        return bool(checks and len(references.crops) and not system.trust and not is_confirmed(references))

    def warp(references: References) -> References:
        references = restorer.embed_references(references)
        if not warps_references(parts):
            return references
        own_points = tuple(find_points(crop) for crop in references.crops)
        return warp_references(restorer.config, replace(references, landmarks=own_points), find_lq_points())

    # Decide which systems use their references. The decision can need the image without references.
    chosen = []
    for system in systems:
        references = select_references(case, system, embed)
        assert references is not None
        chosen.append(limit_references(restorer.config, references))
    try:
        left_out = [leaves_out(system, own) for system, own in zip(systems, chosen, strict=True)]
    except NotRestoredYet:
        alone += yield Step([nothing], 0)
        left_out = [leaves_out(system, own) for system, own in zip(systems, chosen, strict=True)]
    used = [own if len(own.crops) and not out else None for own, out in zip(chosen, left_out, strict=True)]
    if None in used and not alone:
        alone += yield Step([nothing], 0)
    # Restore with the references.
    waiting = [FaceInput(case.lq, warp(own)) for own in used if own is not None]
    restored = iter((yield Step(waiting, 0)) if waiting else ())
    images = [_to_image(alone[0] if own is None else next(restored)) for own in used]
    return [
        RestoredCase(len(own.crops), len(own.crops) if out else 0, image)
        for own, out, image in zip(chosen, left_out, images, strict=True)
    ]


def _to_image(restored: np.ndarray | Exception) -> np.ndarray | None:
    """Returns a restored image as uint8, like an image that is read from a file, or None if it is not finite.

    Raises any other error of the network.
    """
    if isinstance(restored, NotFinite):
        return None
    (restored,) = raise_errors([restored])
    return (np.clip(restored, 0, 255) + np.float32(0.5)).astype(np.uint8)


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
