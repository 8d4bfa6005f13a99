"""Restore the faces of one photo, and say of each why it was restored or not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from curate.faces.align import FFHQ_512, FFHQ_SIZE, align_face, crop_for_recognizer, fit_similarity, scale_template
from curate.faces.interface import FaceModels
from curate.faces.measure import measure_sharpness
from degrade.operations.pixels import shrink
from manifests.errors import BadInput
from manifests.runtime.files import write_atomically
from manifests.runtime.png_files import encode_png
from manifests.runtime.untrusted_images import Read
from train.data.landmarks import detect_faces, find_landmarks, landmarks_in_crop
from train.data.tensors import to_image, to_tensor
from train.models.restorer import Restorer
from train.restore.load import run_model
from train.restore.paste import paste
from train.restore.reference_photos import References, warp_references

# Where an upright, frontal face has its five landmarks inside a detector's box, as shares of the box: the mean over
# 1,182 SCRFD detections on web photos, ours. For faces too degraded to be found.
LANDMARKS_IN_BOX = np.array([[0.270, 0.391], [0.733, 0.389], [0.503, 0.591], [0.314, 0.748], [0.697, 0.745]])


# `sharpness` below which a face counts as degraded, so that it may be the person although it is not recognized. Ours,
# over the published sets of LQ photos with references: the softest of 37 references has .39; 5 of 23 LQ photos lie
# below .35, among them the one photo (.13) whose person is not recognized.
DEGRADED_SHARPNESS = 0.35


# a photo with a face of it: the LQ crop at the restorer's size, what was shown of the person, the restored crop
OnFace = Callable[[Path, np.ndarray, References, np.ndarray], None]


@dataclass(frozen=True)
class FaceOutcome:
    """One face of one photo."""

    box: tuple[float, ...]  # photo pixels
    similarity: float | None  # mean cosine to the references; None without references
    restored: bool


@dataclass(frozen=True)
class PhotoOutcome:
    """What became of one photo; `reason` is a sentence where nothing was restored, or where something should be
    known."""

    photo: str
    output: str | None
    status: str  # ok, dropped, failed
    reason: str | None
    faces: tuple[FaceOutcome, ...] = ()


def _restore_one(
    path: Path,
    target: Path,
    model: Restorer,
    models: FaceModels,
    references: References,
    aligned: bool,
    box: tuple[float, float, float, float] | None,
    on_face: OnFace,
    read: Read,
) -> PhotoOutcome:
    try:
        image = read(path)
    except BadInput as error:
        return PhotoOutcome(str(path), None, "failed", str(error))
    if aligned:
        return _restore_crop(path, target, image, model, models, references, on_face)
    if box is None:
        found = [(one.box, one.landmarks5) for one in detect_faces(image, models)]
    else:
        height, width = image.shape[:2]
        if box[0] >= width or box[1] >= height or box[2] <= 0 or box[3] <= 0:
            outside = f"The --box lies outside the photo, which is {width} x {height} pixels."
            return PhotoOutcome(str(path), None, "failed", outside)
        corner, extent = np.array(box[:2]), np.array(box[2:]) - np.array(box[:2])
        found = [(np.array(box), corner + LANDMARKS_IN_BOX * extent)]
    if not found:
        return PhotoOutcome(str(path), None, "dropped", "No face was found: point at it with --box x0,y0,x1,y1.")
    faces = [_judge(image, where, landmarks5, models, references) for where, landmarks5 in found]
    reason = None if box is None else _unwarped(model, references)
    if box is None and len(references.crops):
        soft = len(found) == 1 and _sharpness(image, found[0][1]) < DEGRADED_SHARPNESS
        faces, reason = _matching(faces, models.same_person, soft)
        if not any(face.restored for face in faces):
            return PhotoOutcome(str(path), None, "dropped", reason, tuple(faces))
    result, size = image, model.config.size
    for face, (_, landmarks5) in zip(faces, found, strict=True):
        if face.restored:
            crop = shrink(align_face(image, landmarks5, FFHQ_512, FFHQ_SIZE), size)
            own = warp_references(model, references, None if box is not None else landmarks_in_crop(landmarks5, size))
            restored = to_image(run_model(model, to_tensor(crop)[None], own)[0])
            on_face(path, crop, own, restored)
            result = paste(result, restored, fit_similarity(landmarks5, scale_template(FFHQ_512, FFHQ_SIZE, size)))
    write_atomically(target, encode_png(result))
    return PhotoOutcome(str(path), str(target), "ok", reason, tuple(faces))


def _restore_crop(
    path: Path,
    target: Path,
    crop: np.ndarray,
    model: Restorer,
    models: FaceModels,
    references: References,
    on_face: OnFace,
) -> PhotoOutcome:
    height, width = crop.shape[:2]
    if height != width:
        why = f"{width} x {height} is not square, so it is no aligned crop: leave --aligned away."
        return PhotoOutcome(str(path), None, "failed", why)
    lq = _at_size(crop, model.config.size)
    landmarks5 = find_landmarks(lq, models) if "warped" in model.config.parts else None
    reason = _unwarped(model, references) if landmarks5 is None else None
    references = warp_references(model, references, landmarks5)
    restored = to_image(run_model(model, to_tensor(lq)[None], references)[0])
    on_face(path, lq, references, restored)
    write_atomically(target, encode_png(restored))
    return PhotoOutcome(str(path), str(target), "ok", reason, (FaceOutcome((0.0, 0.0, width, height), None, True),))


def _unwarped(model: Restorer, references: References) -> str | None:
    """What is said of an input without landmarks."""
    if "warped" not in model.config.parts or not len(references.crops):
        return None
    return "No landmarks were found on this face, so the references were not warped to it: they stayed as aligned."


def _sharpness(image: np.ndarray, landmarks5: np.ndarray) -> float:
    return measure_sharpness(align_face(image, landmarks5, FFHQ_512, FFHQ_SIZE))


def _matching(faces: list[FaceOutcome], same_person: float, degraded: bool) -> tuple[list[FaceOutcome], str | None]:
    """Which faces are the references' person, with a sentence where that is none of them or uncertain.

    A face that is alone in its photo is taken for the person where it is `degraded`, so that the recognizer's no counts
    for little.
    """
    if len(faces) == 1:
        likeness = faces[0].similarity or 0.0
        if likeness >= same_person:
            return faces, None
        if degraded:
            return faces, (
                f"The only face is too degraded to be confirmed as the person of the references (cosine "
                f"{likeness:.2f}, {same_person:g} wanted); it was restored as them."
            )
        return [replace(faces[0], restored=False)], (
            f"The only face does not match the references (cosine {likeness:.2f}, {same_person:g} wanted) and is sharp "
            f"enough to be recognized: insist with --box x0,y0,x1,y1 if it is their person."
        )
    judged = [replace(face, restored=(face.similarity or 0.0) >= same_person) for face in faces]
    if any(face.restored for face in judged):
        return judged, None
    best = max(face.similarity or 0.0 for face in faces)
    return judged, (
        f"None of the {len(faces)} faces matches the references (best cosine {best:.2f}, {same_person:g} wanted): "
        f"point at the face with --box x0,y0,x1,y1."
    )


def _at_size(crop: np.ndarray, size: int) -> np.ndarray:
    """A square crop at the restorer's size: area-averaged where it is larger, bicubic where it is smaller."""
    if crop.shape[0] >= size:
        return shrink(crop, size)
    return cv2.resize(crop, (size, size), interpolation=cv2.INTER_CUBIC)


def _judge(
    image: np.ndarray, box: np.ndarray, landmarks5: np.ndarray, models: FaceModels, references: References
) -> FaceOutcome:
    where = tuple(round(float(edge), 1) for edge in box)
    if not len(references.crops):
        return FaceOutcome(where, None, True)
    chip = crop_for_recognizer(align_face(image, landmarks5, FFHQ_512, FFHQ_SIZE), models.template, models.size)
    return FaceOutcome(where, float((references.embeddings.numpy() @ models.embed(chip[None])[0]).mean()), True)
