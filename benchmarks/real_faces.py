"""Finds the soft faces of degraded photos, and measures each face in a changed copy of its photo."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from curate.faces.align import FFHQ_512, FFHQ_SIZE, align_face, embed_face
from curate.faces.find_faces import find_usable_faces
from curate.faces.interface import Detection, FaceModels
from degrade.operations.pixels import shrink
from manifests.pictures.images import decode
from train.data.face_measures import (
    InputFace,
    describe_face,
    measure_agreement,
    measure_fineness,
    measure_sharpness_ratio,
)

# The benchmark counts only the faces whose fineness is below this number (ours). At 256 pixels, 66 of the 67 faces in
# the photos of real_photos.py have a fineness of 0 to .22, and one face has .36. The number is also the limit
# `max_fineness` of train/restore/decisions/harm.py.
MAX_FINENESS = 0.30
NO_FACE = "no_face"  # the decision for a photo in which the detector finds no face


class Figures(NamedTuple):
    """Holds the measures of one face in one row of a table. benchmarks/real_photos.py explains the measures."""

    sharpness_ratio: float
    agreement: float
    identity_to_references: float | None
    identity_to_input: float | None


ROWS = ("lq_input", "unsharp_mask", "faint_mask", "restored")


@dataclass
class Face:
    """Holds one face that the benchmark counts.

    `after` is the photo that `restore` wrote, or None if `restore` left the face unchanged.
    """

    source: str
    name: str  # The name of the photo.
    image: np.ndarray  # The photo, uint8 (H, W, 3).
    found: Detection | None = None  # None if the detector finds no face.
    measured: InputFace | None = None
    decision: str = NO_FACE
    after: np.ndarray | None = None
    references: list[np.ndarray] = field(default_factory=list)  # The judge's embeddings (d,) of the chosen references.
    sharpness_in_log: float | None = None  # The sharpness ratio of the restored crop, before the crop is pasted.
    rows: dict[str, Figures] = field(default_factory=dict)


def cut_crop(image: np.ndarray, found: Detection, size: int) -> np.ndarray:
    """Returns a face of a photo as `restore` cuts it, uint8 (size, size, 3)."""
    return shrink(align_face(image, found.landmarks5, FFHQ_512, FFHQ_SIZE), size)


def find_counted_faces(
    source: str, paths: Sequence[Path], models: FaceModels, size: int
) -> list[tuple[Path, list[Face | None]]]:
    """Returns the faces of each photo, in the order of the detector.

    The list contains None for a face that is not counted.
    """
    photos: list[tuple[Path, list[Face | None]]] = []
    for path in paths:
        image, faces = decode(path), list[Face | None]()
        for found in find_usable_faces(image, models):
            measured = describe_face(image, found.landmarks5, cut_crop(image, found, size))
            counts = measure_fineness(measured) < MAX_FINENESS
            faces.append(Face(source, path.name, image, found, measured) if counts else None)
        photos.append((path, faces or [Face(source, path.name, image)]))
    return photos


def measure_ratio(face: Face, image: np.ndarray) -> float:
    """Returns the sharpness ratio of the face in a changed copy of its photo, uint8 (H, W, 3)."""
    assert face.found is not None and face.measured is not None
    return measure_sharpness_ratio(face.measured, cut_crop(image, face.found, len(face.measured.crop)))


def measure_image(face: Face, image: np.ndarray, judge: FaceModels) -> Figures:
    """Returns the figures of the face in a changed copy of its photo, uint8 (H, W, 3)."""
    assert face.found is not None and face.measured is not None
    crop = cut_crop(image, face.found, len(face.measured.crop))
    vector = embed_face(crop, judge)
    to_references = float(np.mean(np.stack(face.references) @ vector)) if face.references else None
    to_input = None if face.references else float(embed_face(face.measured.crop, judge) @ vector)
    return Figures(measure_ratio(face, image), measure_agreement(face.measured, crop), to_references, to_input)
