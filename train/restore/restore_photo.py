"""Restore the faces of one photo, and report what happened to each face."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from curate.faces.find_faces import find_face_in_box, find_usable_faces
from curate.faces.interface import FaceModels
from degrade.operations.pixels import shrink
from manifests.errors import BadInput
from manifests.pictures import images
from manifests.runtime.files import sha256_file
from train.data.landmarks import find_landmarks
from train.data.mesh import warps_references
from train.restore.batches.face_batches import FaceInput, raise_errors
from train.restore.batches.photo_pipeline import Step, Steps
from train.restore.decisions.kept_out_photos import is_kept_out
from train.restore.decisions.outcomes import FaceOutcome, PhotoOutcome
from train.restore.output_paths import PhotoOutput
from train.restore.pasting.paste import Patch, make_patch, round_to_levels
from train.restore.pasting.write_photo import copy_photo, write_crop, write_photo
from train.restore.references.choose_references import PhotoChoice, choose_references
from train.restore.references.confirm_references import NotRestoredYet
from train.restore.references.reference_photos import References, join_references
from train.restore.restore_face import FacePlan, PhotoFace, RestoreSetup, cut_face, finish_face, plan_face, take_crop

if TYPE_CHECKING:
    from manifests.privacy.kept_out import KeptOutList

# The five landmarks of an upright, frontal face, as fractions (x, y) of a detector's box. The fractions are means over
# 1,182 SCRFD detections on web photos (ours). These landmarks are used if the detector finds no face in --box.
LANDMARKS_IN_BOX = np.array([[0.270, 0.391], [0.733, 0.389], [0.503, 0.591], [0.314, 0.748], [0.697, 0.745]])

KEPT_OUT = "The photo was not restored, because it was opted out or purged from the dataset of this run."
NO_DIFFERENCE = "The restored faces have the same pixels as before, so the result is a copy of the photo."
NO_STRENGTH = "The strength is 0, so the result is a copy of the photo."


@dataclass(frozen=True)
class RestoredPhoto:
    """Holds the outcome of a photo. For each restored face, `faces` has all arguments of OnFace except the path."""

    outcome: PhotoOutcome
    faces: tuple[tuple[np.ndarray, References, np.ndarray], ...] = ()


def restore_or_explain(output: PhotoOutput, setup: RestoreSetup, kept_out: KeptOutList | None) -> Steps[RestoredPhoto]:
    """Does what `restore_photo` does. If the photo is kept out, or if an error occurs, the outcome has the reason."""
    path = output.photo
    try:
        if is_kept_out(path, kept_out, setup.read):
            return RestoredPhoto(PhotoOutcome(str(path), None, "dropped", KEPT_OUT))
        return (yield from restore_photo(output, setup))
    except Exception as error:  # one bad photo must not stop a folder of thousands
        why = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        return RestoredPhoto(PhotoOutcome(str(path), None, "failed", f"The photo could not be restored: {why}."))


def restore_photo(output: PhotoOutput, setup: RestoreSetup) -> Steps[RestoredPhoto]:
    """Restores the faces of one photo and writes the result in the format of the photo, or as PNG.

    train/restore/pasting/write_photo.py explains the formats. If no face changes, the result has the bytes of the
    photo. If the photo cannot be read or shows no face, nothing is written, and the outcome has the reason.

    This function is a generator: it yields faces for the network, and receives the restored faces. The network can
    therefore restore the faces of several photos at once (train/restore/batches/photo_pipeline.py).
    """
    path = output.photo
    try:
        picture = setup.read(path)
    except BadInput as error:
        return RestoredPhoto(PhotoOutcome(str(path), None, "failed", str(error)))
    image, held = picture.rgb, count_bytes(picture)
    if setup.strength == 0:
        return RestoredPhoto(_copy_photo(output, NO_STRENGTH))
    faces: list[PhotoFace] | PhotoOutcome
    faces = _take_crop(path, image, setup) if setup.aligned else _find_faces(path, image, setup)
    if isinstance(faces, PhotoOutcome):
        return RestoredPhoto(faces)
    # Choose the references. For the choice, a photo's only face may have to be restored without references first.
    photo_sha256, nothing = sha256_file(path), join_references((), setup.model.config.size, setup.models.dim)
    try:
        choice = _choose(faces, photo_sha256, setup)
    except NotRestoredYet:
        (face,) = faces
        face.alone.extend(raise_errors((yield Step([FaceInput(face.crop, nothing)], held))))
        choice = _choose(faces, photo_sha256, setup)
    # Restore the faces, all in one step. If a face gets no references and was already restored without references, that
    # result is used.
    name = "The face" if len(faces) == 1 else "The face at {}"
    plans = [
        plan_face(face, references, setup, name.format(",".join(f"{edge:.0f}" for edge in face.box)))
        for face, references in zip(faces, choice.faces, strict=True)
    ]
    waiting = [one for one in plans if isinstance(one, FacePlan) and (one.choice.faces or not one.face.alone)]
    restored = iter(raise_errors((yield Step([plan.input for plan in waiting], held))) if waiting else ())
    # Decide which results are used.
    outcomes, patches, shown, crop = list[FaceOutcome](), list[Patch](), [], None
    for plan in plans:
        if isinstance(plan, FaceOutcome):
            outcomes.append(plan)
            continue
        face = plan.face
        result = next(restored) if plan.choice.faces or not face.alone else face.alone[0]
        outcome, crop = finish_face(plan, result, setup)
        outcomes.append(outcome)
        if crop is None:
            continue
        shown.append((face.crop, plan.input.references, round_to_levels(crop)))
        if face.landmarks5 is not None:
            patch = make_patch(image, face.crop, crop, face.landmarks5)
            patches += [patch] if patch is not None else []
    # Write the photo.
    notices = list(choice.notices)
    if warps_references(setup.model.config.parts) and any(
        outcome.references and face.points is None for outcome, face in zip(outcomes, faces, strict=True)
    ):
        notices.append("At least one face has no usable landmarks, so the references of this face were not warped.")
    if not any(outcome.restored for outcome in outcomes):
        return RestoredPhoto(_copy_photo(output, " ".join(notices) or None, outcomes))
    notices += _describe_reading(picture.notice)
    if crop is not None and setup.aligned:
        write_crop(path, output.png, round_to_levels(crop))
        target = output.png
    else:
        written = write_photo(path, output.own, output.png, picture, patches, setup.lossless)
        target = written.path
        if not written.changed:
            notices.append(NO_DIFFERENCE)
        elif written.largest_difference:
            notices.append(
                f"JPEG is not lossless: outside the faces, the result differs by at most {written.largest_difference} "
                "of 255 levels (--lossless writes a PNG without a difference)."
            )
    outcome_of_photo = PhotoOutcome(str(path), str(target), "ok", " ".join(notices) or None, tuple(outcomes))
    return RestoredPhoto(outcome_of_photo, tuple(shown))


def _choose(faces: Sequence[PhotoFace], photo_sha256: str, setup: RestoreSetup) -> PhotoChoice:
    return choose_references(
        [face.compared for face in faces],
        photo_sha256,
        setup.people,
        setup.models.same_person,
        pointed=setup.box is not None,
        trust=setup.trust_references,
    )


def count_bytes(picture: images.Picture) -> int:
    """Returns the number of bytes that the pixels and the stored samples of a picture need in memory."""
    return picture.rgb.nbytes + (0 if picture.original is None else picture.original.samples.nbytes)


def _describe_reading(notice: str | None) -> list[str]:
    """Returns a sentence for the user if the photo was read in an unusual way, otherwise an empty list."""
    match notice:
        case images.HALF_SIZE:
            return [
                f"The photo has more than {images.MAX_PIXELS // 10**6} megapixels, so it was read at half its width "
                "and height, and the result has this size."
            ]
        case images.BROKEN_PROFILE:
            return ["The colour profile of the photo is broken and was ignored."]
    return []


def _copy_photo(output: PhotoOutput, reason: str | None, outcomes: Sequence[FaceOutcome] = ()) -> PhotoOutcome:
    copy_photo(output.photo, output.own)
    return PhotoOutcome(str(output.photo), str(output.own), "kept", reason, tuple(outcomes))


def _find_faces(path: Path, image: np.ndarray, setup: RestoreSetup) -> list[PhotoFace] | PhotoOutcome:
    """Returns the faces that the detector finds, or the face in --box. If there is no face, returns the outcome of the
    photo."""
    models, box = setup.models, setup.box
    if box is None:
        faces = [cut_face(image, one.box, one.landmarks5, setup) for one in find_usable_faces(image, models)]
        no_face = "No face was found: point at the face with --box x0,y0,x1,y1."
        return faces or PhotoOutcome(str(path), None, "dropped", no_face)
    height, width = image.shape[:2]
    if box[0] >= width or box[1] >= height or box[2] <= 0 or box[3] <= 0:
        outside = f"The --box is outside the photo, which has {width} x {height} pixels: give a box inside the photo."
        return PhotoOutcome(str(path), None, "failed", outside)
    return [_find_face_in_box(image, box, models, setup)]


def _find_face_in_box(
    image: np.ndarray, box: tuple[float, float, float, float], models: FaceModels, setup: RestoreSetup
) -> PhotoFace:
    """Returns the face in --box. If the detector finds no face there, the face gets the landmarks LANDMARKS_IN_BOX."""
    face = find_face_in_box(image, box, models)
    corner, extent = np.array(box[:2]), np.array(box[2:]) - np.array(box[:2])
    landmarks5 = corner + LANDMARKS_IN_BOX * extent if face is None else face.landmarks5
    return cut_face(image, np.array(box), landmarks5, setup, exact=face is not None)


def _take_crop(path: Path, image: np.ndarray, setup: RestoreSetup) -> list[PhotoFace] | PhotoOutcome:
    """Returns the face of an aligned crop (--aligned), or the outcome of an image that is not square."""
    height, width = image.shape[:2]
    if height != width:
        reason = f"An aligned crop is square, but this image has {width} x {height} pixels: leave out --aligned."
        return PhotoOutcome(str(path), None, "failed", reason)
    lq = _resize_crop(image, setup.model.config.size)
    landmarks5 = find_landmarks(lq, setup.models) if warps_references(setup.model.config.parts) else None
    return [take_crop(image, lq, landmarks5, setup)]


def _resize_crop(crop: np.ndarray, size: int) -> np.ndarray:
    """Resizes a square crop to the restorer's size. A larger crop is shrunk by area averaging. A smaller crop is
    enlarged bicubically."""
    if crop.shape[0] >= size:
        return shrink(crop, size)
    return cv2.resize(crop, (size, size), interpolation=cv2.INTER_CUBIC)
