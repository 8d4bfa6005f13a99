"""Restore a case as a system says, with the same check of the references as `restore`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch

from curate.faces.align import crop_for_recognizer
from curate.faces.interface import FaceModels
from curate.faces.measure import measure_sharpness
from train.data.landmarks import find_landmarks
from train.data.mesh import find_warp_points, warps_references
from train.data.tensors import to_image, to_tensor
from train.evaluation.cases import Case
from train.evaluation.systems import Embed, System, select_references
from train.models.restorer import Restorer
from train.restore.face_restorer import needs_reference
from train.restore.load_restorer import embed_references, run_model
from train.restore.references.confirm_references import REFERENCE_PARTS, confirm_references
from train.restore.references.reference_photos import (
    References,
    join_references,
    limit_references,
    warp_references,
)


@dataclass(frozen=True)
class RestoredCase:
    """Holds the restoration of one case under one system."""

    references: int  # Number of references that the system gave.
    left_out: int  # Number of these references that do not seem to show the person of the LQ image.
    image: np.ndarray | None  # uint8 (S, S, 3), or None if the restored image contains NaN or infinity.


def make_case_restorer(case: Case, model: Restorer, recognizer: FaceModels) -> Callable[[System], RestoredCase]:
    """Returns a function that restores a case under a system. `choose_photos` must find photos for this system.

    `recognizer` embeds faces and finds landmarks for the restorer. As in `restore`, references that do not seem to show
    the person of the LQ image are left out (train/restore/references/confirm_references.py). References are not left
    out if the system trusts them, or if the restorer uses no references. If the recipe warps references, the function
    warps the references to the landmarks on the LQ image, as in `restore`.
    """
    embed, parts = make_embedder(recognizer), model.config.parts
    checks = bool(REFERENCE_PARTS & set(parts))

    # All systems of the case share the results of the cached functions.
    @cache
    def restore_alone() -> torch.Tensor:
        return run_model(model, to_tensor(case.lq)[None], join_references((), case.lq.shape[0], recognizer.dim))[0]

    @cache
    def embed_restored() -> np.ndarray:
        # An image with NaN or infinity gets an embedding of zeros, which confirms no reference.
        restored = restore_alone()
        return embed([to_image(restored)])[0] if _is_finite(restored) else np.zeros(recognizer.dim, np.float32)

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
        alone = None if needs_reference(model.facts) else embed_restored
        return confirm_references(embed_input(), sharpness, vectors, recognizer.same_person, alone).confirmed

    def restore(system: System) -> RestoredCase:
        references = select_references(case, system, embed)
        assert references is not None
        references = limit_references(model.config, references)
        count = len(references.crops)
        left_out = count if checks and count and not system.trust and not is_confirmed(references) else 0
        if left_out or not count:
            restored = restore_alone()
        else:
            references = embed_references(model, references)
            if warps_references(parts):
                own_points = tuple(find_points(crop) for crop in references.crops)
                references = warp_references(model.config, replace(references, landmarks=own_points), find_lq_points())
            restored = run_model(model, to_tensor(case.lq)[None], references)[0]
        # The image is measured in 8 bits, like an image that is read from a file.
        return RestoredCase(count, left_out, to_image(restored) if _is_finite(restored) else None)

    return restore


def make_embedder(recognizer: FaceModels) -> Embed:
    """Returns a function that embeds crops in the FFHQ template."""

    def embed(crops: Sequence[np.ndarray]) -> np.ndarray:
        return recognizer.embed(np.stack([crop_for_recognizer(c, recognizer.template, recognizer.size) for c in crops]))

    return embed


def _is_finite(image: torch.Tensor) -> bool:
    return bool(torch.isfinite(image).all())
