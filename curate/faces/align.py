"""The crop templates and the similarities between photo, crop and template.

Landmarks are always the same five, image left first: left eye, right eye, nose tip, left mouth corner, right mouth
corner.
"""

from __future__ import annotations

import cv2
import numpy as np

# InsightFace's ArcFace template for 112 x 112 crops (insightface/utils/face_align.py, `arcface_dst`).
ARCFACE_112 = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)

# Mean landmarks of FFHQ at 512 x 512, as GFPGAN, CodeFormer and DiffBIR crop
# (facexlib/utils/face_restoration_helper.py).
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


def fit_similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Least-squares similarity (Umeyama 1991, no reflection) that takes `source` (n, 2) to `target` (n, 2).

    Returns float64 (2, 3). Raises ValueError where the source points coincide or any point is not finite.
    """
    source, target = np.asarray(source, np.float64), np.asarray(target, np.float64)
    if not (np.isfinite(source).all() and np.isfinite(target).all()):
        raise ValueError("landmarks are not finite")
    mean_s, mean_t = source.mean(0), target.mean(0)
    s, t = (source - mean_s), (target - mean_t)
    spread = float((s**2).sum())
    if spread < 1e-12:
        raise ValueError("landmarks coincide")
    # in the plane the optimum is a complex quotient: scale * rotation = <s, t> / <s, s>
    a = float((s * t).sum()) / spread
    b = float((s[:, 0] * t[:, 1] - s[:, 1] * t[:, 0]).sum()) / spread
    linear = np.array([[a, -b], [b, a]])
    return np.hstack([linear, (mean_t - linear @ mean_s)[:, None]])


def compute_scale(matrix: np.ndarray) -> float:
    """Target pixels per source pixel of a similarity (2, 3)."""
    return float(np.hypot(matrix[0, 0], matrix[1, 0]))


def invert_affine(matrix: np.ndarray) -> np.ndarray:
    """The inverse of an affine (2, 3)."""
    return cv2.invertAffineTransform(matrix)


def transform_points(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Points (n, 2) through an affine (2, 3)."""
    return np.asarray(points, np.float64) @ matrix[:, :2].T + matrix[:, 2]


def warp(image: np.ndarray, matrix: np.ndarray, size: int, border: int = cv2.BORDER_REFLECT_101) -> np.ndarray:
    """`image` (H, W, C) through a similarity into (size, size, C) of the same dtype.

    Where the similarity shrinks, the image is area-resized first, so that nothing aliases; where it enlarges, bilinear.
    Pixel centres are honoured: coordinate 0 is the centre of the first pixel.
    """
    scale = compute_scale(matrix)
    matrix = matrix.astype(np.float64)
    if scale < 1.0:
        height, width = image.shape[:2]
        new_width, new_height = max(1, round(width * scale)), max(1, round(height * scale))
        image = cv2.resize(image, (new_width, new_height), interpolation=cv2.INTER_AREA)
        # a pixel centre u of the shrunk image lies at (u + .5) * factor - .5 in the full one
        factor = np.array([width / new_width, height / new_height])
        linear = matrix[:, :2] * factor
        matrix = np.hstack([linear, (matrix[:, 2] + matrix[:, :2] @ (0.5 * factor - 0.5))[:, None]])
    return cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=border)


def scale_template(template: np.ndarray, template_size: int, size: int) -> np.ndarray:
    """A template (5, 2) for crops of another size, pixel centres honoured."""
    return (template + 0.5) * (size / template_size) - 0.5


def align_face(image: np.ndarray, landmarks5: np.ndarray, template: np.ndarray, size: int) -> np.ndarray:
    """Crop (size, size, 3) of `image` with its landmarks (5, 2) brought to `template` (5, 2, given at `size`)."""
    return warp(image, fit_similarity(landmarks5, template), size)


def crop_for_recognizer(crop: np.ndarray, template: np.ndarray, size: int) -> np.ndarray:
    """What a recognizer sees of an FFHQ-template crop (S, S, 3), for any S: (size, size, 3), without a detector.

    `template` (5, 2) and `size` are the recognizer's own.
    """
    here = scale_template(FFHQ_512, FFHQ_SIZE, crop.shape[0])
    return warp(crop, fit_similarity(here, template), size)
