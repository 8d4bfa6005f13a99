"""Defines crop templates, and computes the similarity transforms between photos, crops and templates.

The order of the five landmarks is always: left eye, right eye, nose tip, left mouth corner, right mouth corner. Left
means left in the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from curate.faces.interface import FaceModels

# InsightFace's ArcFace template for 112 x 112 crops (insightface/utils/face_align.py, `arcface_dst`).
ARCFACE_112 = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)

# The mean landmarks of FFHQ in crops of 512 x 512 pixels. GFPGAN, CodeFormer and DiffBIR crop faces with the template
# FFHQ_512 (facexlib/utils/face_restoration_helper.py).
FFHQ_512 = np.array(
    [
        [192.98138, 239.94708],
        [318.90277, 240.1936],
        [256.63416, 314.01935],
        [201.26117, 371.41043],
        [313.08905, 371.15118],
    ]
)
FFHQ_SIZE = 512

# The order of the five landmarks in a mirrored face: the eyes and the corners of the mouth change places.
MIRRORED_LANDMARKS = [1, 0, 2, 4, 3]

# The colour, RGB, of the crop pixels that lie outside the photo. facexlib uses the same gray
# (face_restoration_helper.py, borderValue). Mirrored pixels could look like a part of the face, but a constant colour
# does not.
OUTSIDE = (132, 133, 135)


def fit_similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Returns the least-squares similarity that maps `source` (n, 2) to `target` (n, 2), float64 (2, 3).

    A similarity rotates, scales and moves an image, and does not mirror the image (Umeyama 1991). Raises ValueError if
    all source points coincide or if a point is not finite.
    """
    source, target = np.asarray(source, np.float64), np.asarray(target, np.float64)
    if not (np.isfinite(source).all() and np.isfinite(target).all()):
        raise ValueError("landmarks are not finite")
    mean_s, mean_t = source.mean(0), target.mean(0)
    s, t = (source - mean_s), (target - mean_t)
    spread = float((s**2).sum())
    if spread < 1e-12:
        raise ValueError("landmarks coincide")
    # If the points are written as complex numbers, the best scale times the best rotation is <s, t> / <s, s>.
    a = float((s * t).sum()) / spread
    b = float((s[:, 0] * t[:, 1] - s[:, 1] * t[:, 0]).sum()) / spread
    linear = np.array([[a, -b], [b, a]])
    return np.hstack([linear, (mean_t - linear @ mean_s)[:, None]])


def compute_scale(matrix: np.ndarray) -> float:
    """Returns the scale of a similarity (2, 3): target pixels per source pixel."""
    return float(np.hypot(matrix[0, 0], matrix[1, 0]))


def invert_affine(matrix: np.ndarray) -> np.ndarray:
    """Returns the inverse of an affine map (2, 3)."""
    return cv2.invertAffineTransform(matrix)


def transform_points(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Returns the points (n, 2) mapped by an affine map (2, 3), float64 (n, 2)."""
    return np.asarray(points, np.float64) @ matrix[:, :2].T + matrix[:, 2]


def warp(image: np.ndarray, matrix: np.ndarray, size: int) -> np.ndarray:
    """Returns `image` (H, W, 3) mapped by a similarity, uint8 (size, size, 3). Pixels outside the image get the colour
    OUTSIDE.

    If the similarity shrinks the image, the image is first made smaller by averaging areas, which prevents aliasing. If
    the similarity enlarges the image, only bilinear interpolation is used. Coordinate 0 is the centre of the first
    pixel.
    """
    scale = compute_scale(matrix)
    matrix = matrix.astype(np.float64)
    if scale < 1.0:
        height, width = image.shape[:2]
        new_width, new_height = max(1, round(width * scale)), max(1, round(height * scale))
        image = cv2.resize(image, (new_width, new_height), interpolation=cv2.INTER_AREA)
        # The pixel centre u of the resized image is at (u + .5) * factor - .5 in the original image.
        factor = np.array([width / new_width, height / new_height])
        linear = matrix[:, :2] * factor
        matrix = np.hstack([linear, (matrix[:, 2] + matrix[:, :2] @ (0.5 * factor - 0.5))[:, None]])
    # OpenCV maps four channels twice as fast as three, with the same bits. If a photo is much larger than the crop,
    # adding the channel takes more time than the faster mapping saves.
    add_channel = image.ndim == 3 and image.shape[2] == 3 and image.shape[0] * image.shape[1] <= 4 * size**2
    image = cv2.cvtColor(image, cv2.COLOR_RGB2RGBA) if add_channel else image
    crop = cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_LINEAR, borderValue=(*OUTSIDE, 0))
    return cv2.cvtColor(crop, cv2.COLOR_RGBA2RGB) if add_channel else crop


def scale_template(template: np.ndarray, template_size: int, size: int) -> np.ndarray:
    """Returns a template (5, 2), scaled from crops of `template_size` pixels to crops of `size` pixels.

    In `template` and in the returned template, coordinate 0 is the centre of the first pixel.
    """
    return (template + 0.5) * (size / template_size) - 0.5


def align_face(image: np.ndarray, landmarks5: np.ndarray, template: np.ndarray, size: int) -> np.ndarray:
    """Returns the crop (size, size, 3) of `image` in which the landmarks (5, 2) are at the points of `template`."""
    return warp(image, fit_similarity(landmarks5, template), size)


def find_valid_pixels(landmarks5: np.ndarray, width: int, height: int, size: int) -> np.ndarray:
    """Returns which pixels of the aligned crop lie completely inside the photo, bool (size, size).

    `landmarks5` (5, 2) are in pixels of the photo, which is `width` x `height`. The crop has the FFHQ template. If a
    pixel mixes colours of the photo with the colour OUTSIDE, its value is False.
    """
    back = invert_affine(fit_similarity(landmarks5, scale_template(FFHQ_512, FFHQ_SIZE, size)))
    # A crop pixel is computed from the part of the photo that is at most `reach` photo pixels from the centre of the
    # crop pixel. `reach` is half the width of a crop pixel plus a margin for the interpolation.
    reach = max(0.5 * compute_scale(back), 0.5) + 0.5
    along = np.arange(size)
    x, y = (along * right + (along * down)[:, None] + shift for right, down, shift in back)
    inside = (x >= reach - 0.5) & (x <= width - 0.5 - reach) & (y >= reach - 0.5) & (y <= height - 0.5 - reach)
    return np.asarray(inside)


def crop_for_recognizer(crop: np.ndarray, template: np.ndarray, size: int) -> np.ndarray:
    """Converts a crop (S, S, 3) that is aligned to the FFHQ template to the recognizer's crop (size, size, 3).

    The landmarks of the face are not needed, because both templates are fixed. `template` (5, 2) and `size` belong to
    the recognizer. S may be any number of pixels.
    """
    ffhq_template = scale_template(FFHQ_512, FFHQ_SIZE, crop.shape[0])
    return warp(crop, fit_similarity(ffhq_template, template), size)


def embed_face(crop: np.ndarray, models: FaceModels) -> np.ndarray:
    """Returns the embedding of a crop, uint8 (S, S, 3), aligned to the FFHQ template, as float32 (d,) of length 1.

    No detector is used.
    """
    return embed_faces([crop], models)[0]


def embed_faces(crops: Sequence[np.ndarray], models: FaceModels) -> np.ndarray:
    """Returns the embeddings of crops, as `embed_face` does, float32 (n, d). A device computes the embeddings in
    batches.
    """
    chips = [crop_for_recognizer(crop, models.template, models.size) for crop in crops]
    return np.asarray(models.embed(np.stack(chips)), np.float32)
