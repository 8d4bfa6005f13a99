"""Makes the ledger row and the 512 px crop of a detected face."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from curate.faces import measure
from curate.faces.align import (
    FFHQ_512,
    FFHQ_SIZE,
    align_face,
    compute_scale,
    find_valid_pixels,
    fit_similarity,
    invert_affine,
    transform_points,
)
from curate.faces.comparison.luma_dct import encode_luma
from curate.faces.interface import Detection
from manifests.ledger.records import Face
from manifests.runtime.files import sha256_bytes

# The box that dlib's detector would find for the face of a crop, in pixels of the crop. The distance between the eyes
# is .41 (ours) of the side of the box.
_BOX_IN_CROP = np.array([103, 148, 410, 455])
# A small crop of the face tells which share of the crop lies inside the photo. This takes less than .25 ms. _VALID_SIDE
# is the side of the small crop, in pixels (ours).
_VALID_SIDE = 128


def measure_face(
    image: np.ndarray, photo_id: str, detection: Detection, landmarks: str | None
) -> tuple[Face, np.ndarray] | None:
    """Returns the ledger row of one detected face, and its crop, RGB uint8 (512, 512, 3).

    `image` is the photo, RGB uint8 (H, W, 3). Returns None if the landmarks coincide or are not finite. If `landmarks`
    is "dlib", the row also has 68 landmarks. Raises MemoryError if OpenCV runs out of memory.
    """
    try:
        return _measure_face(image, photo_id, detection, landmarks)
    except cv2.error as error:
        if error.code == cv2.Error.StsNoMem:
            raise MemoryError from None
        raise


def _measure_face(
    image: np.ndarray, photo_id: str, detection: Detection, landmarks: str | None
) -> tuple[Face, np.ndarray] | None:
    try:
        matrix = fit_similarity(detection.landmarks5, FFHQ_512)
    except ValueError:
        return None
    if not (np.isfinite(detection.box).all() and 1e-3 < compute_scale(matrix) < 1e3):
        return None
    crop = align_face(image, detection.landmarks5, FFHQ_512, FFHQ_SIZE)
    yaw, pitch, roll = measure.estimate_pose(detection.landmarks5)
    # Blockiness and noise are measured in the photo's own pixels, because the resizing of the crop changes blocks and
    # noise.
    luma = _cut_luma(image, detection.box.tolist())
    points68: tuple[float, ...] | None = None
    if landmarks == "dlib":
        from curate.faces.models.dlib_models import find_landmarks68

        if detection.turn == 0:
            points68 = tuple(find_landmarks68(image, detection.box).ravel().tolist())
        else:  # dlib needs an upright face
            in_crop = find_landmarks68(crop, _BOX_IN_CROP)
            points68 = tuple(transform_points(in_crop, invert_affine(matrix)).ravel().tolist())
    valid = find_valid_pixels(detection.landmarks5, image.shape[1], image.shape[0], _VALID_SIDE)
    face = Face(
        face_id=make_face_id(photo_id, detection.box),
        photo_id=photo_id,
        box=tuple(detection.box.tolist()),
        landmarks5=tuple(detection.landmarks5.ravel().tolist()),
        landmarks68=points68,
        det_score=detection.score,
        inter_ocular_px=measure.measure_eye_distance(detection.landmarks5),
        yaw=yaw,
        pitch=pitch,
        roll=roll,
        sharpness=measure.measure_sharpness(crop),
        blockiness=measure.measure_blockiness(luma),
        noise=measure.measure_noise(luma),
        exposure=measure.measure_exposure(crop),
        upsample=compute_scale(matrix),
        phash=measure.hash_face(crop),
        turn=detection.turn if detection.is_turn_clear else None,
        landmark_error=None if detection.landmark_error is None else min(detection.landmark_error, 1.0),
        outside=1.0 - float(valid.mean()),
        luma_dct=encode_luma(crop, valid),
        detail=measure.measure_detail(image, detection.landmarks5),
        clipped=measure.measure_clipped(image, detection.landmarks5),
        dark=measure.measure_dark(image, detection.landmarks5),
    )
    return face, crop


def make_face_id(photo_id: str, box: np.ndarray) -> str:
    """Returns the id of a face: the first 128 bits, as hex, of a sha256 over the photo's id and the rounded box.

    The same face has the same id in every dataset.
    """
    return sha256_bytes(f"{photo_id} {' '.join(str(round(float(edge))) for edge in box)}".encode())[:32]


def _cut_luma(image: np.ndarray, box: Sequence[float]) -> np.ndarray:
    """Returns the luma of a box in the photo's own pixels: float32 (h, w), 0 to 255.

    Returns an empty array (0, 0) if the box is outside the photo.
    """
    x0, y0, x1, y1 = (max(0, round(float(edge))) for edge in box)
    pixels = image[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)]
    return measure.compute_luma(pixels) if pixels.size else np.zeros((0, 0), np.float32)
