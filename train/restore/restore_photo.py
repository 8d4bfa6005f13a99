"""Restore the faces of one photo, and report for each face whether it was restored."""

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
from train.data.landmarks import detect_faces, find_landmarks, map_to_crop
from train.data.tensors import to_image, to_tensor
from train.models.restorer import Restorer
from train.restore.load import run_model
from train.restore.paste import paste
from train.restore.reference_photos import References, warp_references

# The five landmarks of an upright, frontal face, as fractions (x, y) of a detector's box. The fractions are the mean
# over 1,182 SCRFD detections on web photos (ours). With --box, these landmarks replace the landmarks that a detector
# would find.
LANDMARKS_IN_BOX = np.array([[0.270, 0.391], [0.733, 0.389], [0.503, 0.591], [0.314, 0.748], [0.697, 0.745]])

# A face with a `sharpness` below this value counts as degraded. A degraded face may show the person of the references,
# although the recognizer does not confirm this. We chose the value on the published sets of LQ photos with references.
# The least sharp of 37 references has a sharpness of .39. Of 23 LQ photos, 5 have a sharpness below .35. The recognizer
# failed to recognize the person in only one photo, which has a sharpness of .13.
DEGRADED_SHARPNESS = 0.35

# OnFace is a function that is called for each restored face. The arguments are the photo's path, the LQ crop at the
# restorer's size, the references that the restorer gets, and the restored crop. The LQ crop and the restored crop are
# uint8 (S, S, 3).
OnFace = Callable[[Path, np.ndarray, References, np.ndarray], None]


@dataclass(frozen=True)
class FaceOutcome:
    """Tells whether one face of a photo was restored."""

    box: tuple[float, ...]  # x0, y0, x1, y1 in photo pixels
    similarity: float | None  # the mean cosine to the references, or None without references
    restored: bool


@dataclass(frozen=True)
class PhotoOutcome:
    """Tells whether one photo was restored.

    `reason` is a sentence for the user, or None if there is nothing to report.
    """

    photo: str
    output: str | None
    status: str  # ok, dropped, failed
    reason: str | None
    faces: tuple[FaceOutcome, ...] = ()


@dataclass(frozen=True)
class RestoreSetup:
    """Holds the models, the references and the options, which are the same for all photos of a call."""

    model: Restorer
    models: FaceModels
    references: References
    aligned: bool  # True if the inputs are square crops in the FFHQ template
    box: tuple[float, float, float, float] | None  # the box x0, y0, x1, y1 of the face in the photo, in pixels
    on_face: OnFace
    read: Read


def restore_photo(path: Path, target: Path, setup: RestoreSetup) -> PhotoOutcome:
    """Restores the faces of one photo and writes the result to `target` as PNG.

    If the photo cannot be read, or if no face is restored, nothing is written and the outcome has the reason.
    """
    try:
        image = setup.read(path)
    except BadInput as error:
        return PhotoOutcome(str(path), None, "failed", str(error))
    if setup.aligned:
        return _restore_crop(path, target, image, setup)
    model, models, references, box = setup.model, setup.models, setup.references, setup.box
    # `faces` has (box, landmarks) for each face. The boxes come from --box, or else from the detector.
    if box is None:
        faces = [(detection.box, detection.landmarks5) for detection in detect_faces(image, models)]
    else:
        height, width = image.shape[:2]
        if box[0] >= width or box[1] >= height or box[2] <= 0 or box[3] <= 0:
            outside = (
                f"The --box is outside the photo, which has {width} x {height} pixels: give a box inside the photo."
            )
            return PhotoOutcome(str(path), None, "failed", outside)
        corner, extent = np.array(box[:2]), np.array(box[2:]) - np.array(box[:2])
        faces = [(np.array(box), corner + LANDMARKS_IN_BOX * extent)]
    if not faces:
        no_face = "No face was found: point at the face with --box x0,y0,x1,y1."
        return PhotoOutcome(str(path), None, "dropped", no_face)
    # If there are references, only the faces that match the references are restored.
    outcomes = [_compare_face(image, face_box, landmarks5, setup) for face_box, landmarks5 in faces]
    reason = None if box is None else _explain_no_warp(setup)
    if box is None and len(references.crops):
        degraded = len(faces) == 1 and _measure_face_sharpness(image, faces[0][1]) < DEGRADED_SHARPNESS
        outcomes, reason = _match_faces(outcomes, models.same_person, degraded)
        if not any(outcome.restored for outcome in outcomes):
            return PhotoOutcome(str(path), None, "dropped", reason, tuple(outcomes))
    result, size = image, model.config.size
    for outcome, (_, landmarks5) in zip(outcomes, faces, strict=True):
        if outcome.restored:
            crop = shrink(align_face(image, landmarks5, FFHQ_512, FFHQ_SIZE), size)
            # With --box, the landmarks are too inexact to warp references.
            warped = warp_references(model, references, None if box is not None else map_to_crop(landmarks5, size))
            restored = to_image(run_model(model, to_tensor(crop)[None], warped)[0])
            setup.on_face(path, crop, warped, restored)
            result = paste(result, restored, fit_similarity(landmarks5, scale_template(FFHQ_512, FFHQ_SIZE, size)))
    write_atomically(target, encode_png(result))
    return PhotoOutcome(str(path), str(target), "ok", reason, tuple(outcomes))


def _restore_crop(path: Path, target: Path, crop: np.ndarray, setup: RestoreSetup) -> PhotoOutcome:
    """Restores an aligned crop (--aligned) and writes the result at the restorer's size."""
    model = setup.model
    height, width = crop.shape[:2]
    if height != width:
        reason = f"An aligned crop is square, but this image has {width} x {height} pixels: leave out --aligned."
        return PhotoOutcome(str(path), None, "failed", reason)
    lq = _resize_crop(crop, model.config.size)
    landmarks5 = find_landmarks(lq, setup.models) if "warped" in model.config.parts else None
    no_warp = _explain_no_warp(setup) if landmarks5 is None else None
    references = warp_references(model, setup.references, landmarks5)
    restored = to_image(run_model(model, to_tensor(lq)[None], references)[0])
    setup.on_face(path, lq, references, restored)
    write_atomically(target, encode_png(restored))
    return PhotoOutcome(str(path), str(target), "ok", no_warp, (FaceOutcome((0.0, 0.0, width, height), None, True),))


def _explain_no_warp(setup: RestoreSetup) -> str | None:
    """Returns the notice for a face without landmarks, or None if the restorer does not warp references."""
    if "warped" not in setup.model.config.parts or not len(setup.references.crops):
        return None
    return "No landmarks were found on a face, so the references were not warped."


def _measure_face_sharpness(image: np.ndarray, landmarks5: np.ndarray) -> float:
    return measure_sharpness(align_face(image, landmarks5, FFHQ_512, FFHQ_SIZE))


def _compare_face(image: np.ndarray, box: np.ndarray, landmarks5: np.ndarray, setup: RestoreSetup) -> FaceOutcome:
    """Returns the outcome of a face with its mean cosine to the references."""
    corners = tuple(round(float(edge), 1) for edge in box)
    models, references = setup.models, setup.references
    if not len(references.crops):
        return FaceOutcome(corners, None, True)
    crop = crop_for_recognizer(align_face(image, landmarks5, FFHQ_512, FFHQ_SIZE), models.template, models.size)
    return FaceOutcome(corners, float((references.embeddings.numpy() @ models.embed(crop[None])[0]).mean()), True)


def _match_faces(faces: list[FaceOutcome], same_person: float, degraded: bool) -> tuple[list[FaceOutcome], str | None]:
    """Returns the faces with the field `restored` set, and a notice if no face matches or the match is uncertain.

    A face matches if its mean cosine to the references is at least `same_person`. The only face of a photo is also
    restored if it is `degraded`, because the recognizer is unreliable on degraded faces.
    """
    if len(faces) == 1:
        cosine = faces[0].similarity or 0.0
        if cosine >= same_person:
            return faces, None
        if degraded:
            return faces, (
                f"The only face is too degraded to confirm that it is the person of the references (cosine "
                f"{cosine:.2f}, at least {same_person:g} needed). The face was restored as the person of the "
                "references."
            )
        return [replace(faces[0], restored=False)], (
            f"The only face does not match the references (cosine {cosine:.2f}, at least {same_person:g} needed) and "
            "is sharp enough to be recognized, so the face was not restored. If the face shows the person of the "
            "references, point at the face with --box x0,y0,x1,y1."
        )
    outcomes = [replace(face, restored=(face.similarity or 0.0) >= same_person) for face in faces]
    if any(face.restored for face in outcomes):
        return outcomes, None
    best = max(face.similarity or 0.0 for face in faces)
    return outcomes, (
        f"None of the {len(faces)} faces matches the references (best cosine {best:.2f}, at least {same_person:g} "
        "needed): point at the face with --box x0,y0,x1,y1."
    )


def _resize_crop(crop: np.ndarray, size: int) -> np.ndarray:
    """Resizes a square crop to the restorer's size: by area averaging if it is larger, bicubically if it is smaller."""
    if crop.shape[0] >= size:
        return shrink(crop, size)
    return cv2.resize(crop, (size, size), interpolation=cv2.INTER_CUBIC)
