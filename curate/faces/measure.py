"""Measures the pose, sharpness, JPEG blocks, noise and exposure of a face, and computes a perceptual hash."""

from __future__ import annotations

import math
from functools import cache

import cv2
import numpy as np
from PIL import Image

from curate.faces.align import FFHQ_512

# The five landmarks of a head, float64 (5, 3), millimetres: x to the image's right, y down, z away from the camera
# (ours). The eyes are 63 mm apart, which is the adult mean. The nose tip is 30 mm in front of the eyes. The mouth
# corners are 56 mm apart and 4 mm in front of the eyes. The y coordinates follow from FFHQ_512, so that the mean FFHQ
# face has yaw, pitch and roll near 0.
_HEAD = np.array([[-31.5, 0, 0], [31.5, 0, 0], [0, 37, -30], [-28, 65.7, -4], [28, 65.7, -4]], np.float64)
_FIT_HEAD = np.linalg.pinv(_HEAD - _HEAD.mean(0))  # (3, 5)


def measure_eye_distance(landmarks5: np.ndarray) -> float:
    """Returns the distance between the eye centres in landmarks (5, 2), in pixels of their image."""
    return float(np.hypot(*(np.asarray(landmarks5[1], np.float64) - np.asarray(landmarks5[0], np.float64))))


def estimate_pose(landmarks5: np.ndarray) -> tuple[float, float, float]:
    """Returns yaw, pitch and roll, in degrees, of a face with landmarks (5, 2).

    A rigid model of a head is fitted to the landmarks in weak perspective. Yaw is positive if the nose points to the
    image's right. Pitch is positive if the nose points down. Roll is positive if the head is turned clockwise. The
    angles are exact enough to sort faces and to drop profiles. A pose network would be more exact.
    """
    points = np.asarray(landmarks5, np.float64)
    # `affine` (3, 2) maps the head to the image by least squares. The first two rows of the rotation are the
    # orthonormal rows (2, 3) that are nearest to the transpose of `affine`.
    affine = _FIT_HEAD @ (points - points.mean(0))
    u, _, vt = np.linalg.svd(affine.T, full_matrices=False)
    first, second = (u @ vt).tolist()
    depth = first[0] * second[1] - first[1] * second[0]  # the last number of the third row of the rotation
    yaw = math.degrees(math.asin(min(max(-first[2], -1), 1)))
    pitch = math.degrees(math.atan2(-second[2], depth))
    roll = math.degrees(math.atan2(second[0], first[0]))
    return yaw, pitch - _PITCH_OF_FFHQ, roll


_PITCH_OF_FFHQ = 0.0
_PITCH_OF_FFHQ = estimate_pose(FFHQ_512)[1]


def crop_inner_face(crop: np.ndarray) -> np.ndarray:
    """Returns the inner face of a crop (S, S, 3) in the FFHQ template: from brows to chin and from cheek to cheek."""
    size = crop.shape[0]
    return crop[int(0.35 * size) : int(0.85 * size), int(0.25 * size) : int(0.75 * size)]


def compute_luma(image: np.ndarray) -> np.ndarray:
    """Returns the BT.601 luma of RGB uint8 (H, W, 3): float32 (H, W), 0 to 255."""
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)


# The inner face in a crop of 128 px: first row, first column, and side, as shares of the crop.
_INNER_OF_128 = (44 / 128, 32 / 128, 64 / 128)


def measure_sharpness(crop: np.ndarray) -> float:
    """Returns the sharpness of the inner face in a crop (S, S, 3): a number from 0 upwards, without a unit.

    This measure is ours: the standard deviation of the Laplacian divided by the standard deviation of the luma. Because
    the Laplacian is divided by the luma's deviation, the sharpness does not depend on the contrast. The crop is resized
    to 128 px first. Sensor noise changes the sharpness little, because the crop is small.
    """
    # Only the inner face is resized, which gives the same pixels as resizing the whole crop.
    top, left, side = (round(part * crop.shape[0]) for part in _INNER_OF_128)
    inner = crop[top : top + side, left : left + side]
    gray = compute_luma(cv2.resize(inner, (64, 64), interpolation=cv2.INTER_AREA))
    spread = float(gray.std())
    return float(cv2.Laplacian(gray, cv2.CV_32F).std()) / spread if spread > 1e-3 else 0.0


def measure_blockiness(gray: np.ndarray) -> float:
    """Returns how strongly JPEG's 8 x 8 blocks show in the luma (H, W) of a photo that was not resized.

    A result of 1 means that no blocks show.

    The result is a quotient of two means (ours, after Wang, Bovik and Evans 2000). The first mean is the difference
    between neighbouring pixels at the borders of the blocks. The second mean is the difference between neighbouring
    pixels inside the blocks. An image with a side of less than 24 pixels gives 1.
    """
    height, width = gray.shape
    if min(height, width) < 24:
        return 1.0
    ratios = []
    for steps in (cv2.absdiff(gray[:, 1:], gray[:, :-1]).mean(0), cv2.absdiff(gray[1:], gray[:-1]).mean(1)):
        on = steps[7::8].mean()
        off = np.delete(steps, np.arange(7, len(steps), 8)).mean()
        ratios.append((float(on) + 1e-3) / (float(off) + 1e-3))
    return float(np.mean(ratios))


# The noise mask is the difference of two Laplacians (Immerkaer 1996). The norm of the mask is 6. The response of the
# mask is 0 in flat areas, on slopes, and at edges along x or y. The mask is the product of a column and a row, which
# both contain the numbers of _NOISE_MASK.
_NOISE_MASK = np.array([1, -2, 1], np.float32)


def measure_noise(gray: np.ndarray) -> float:
    """Returns the standard deviation of the noise in the luma (H, W), 0 to 255, of a photo that was not resized.

    The luma is filtered with Immerkaer's mask (1996). The result is median(|d|) / .6745 (Donoho and Johnstone 1994),
    where d is the filtered luma. Immerkaer uses a mean, but lashes, hair and edges change a mean more than a median.

    We measured 36 web faces with 80 pixels between the eyes. Before the measurement, we halved the size of the 36
    faces, which removes most of their noise. On the 36 halved faces, `measure_noise` returns 1.5, and Immerkaer's mean
    is 2.4. The same median over the diagonal band of a wavelet is 2.2 for the wavelet Haar and 1.8 for the wavelet db2.
    If noise with a standard deviation of 5, 10 or 20 is added to the halved faces, `measure_noise` returns 5.7, 10.4 or
    19.8.

    A high result means that the photo has noise. Low results are unreliable, because sharp skin and hair give 1 to 4,
    and JPEG and enlarging remove noise. An image with a side of less than 8 pixels gives 0.
    """
    if min(gray.shape) < 8:
        return 0.0
    response = cv2.sepFilter2D(gray, cv2.CV_32F, _NOISE_MASK, _NOISE_MASK)[1:-1, 1:-1]
    return float(np.median(np.abs(response)) / (6 * 0.6745))


def measure_exposure(crop: np.ndarray) -> float:
    """Returns the mean luma of the inner face in a crop (S, S, 3), 0 to 1."""
    return float(compute_luma(crop_inner_face(crop)).mean() / 255.0)


def measure_detail(image: np.ndarray, landmarks5: np.ndarray) -> float:
    """Returns how much fine detail a face shows: a number from 0 upwards, without a unit.

    `image` is the photo, RGB uint8 (H, W, 3), and `landmarks5` (5, 2) are in its pixels. The square around the face is
    resized to 126 pixels between the eyes, as in a crop of 512 px. This measure is ours: the root mean square of the
    difference of two Gaussian blurs with standard deviations of .7 and 1.4 pixels, divided by the standard deviation of
    the luma. Compare the detail of two faces only if they are copies of one picture. We measured 96 copies of each
    kind. A copy of half the size has .86 of the detail of its original (median), and 95% of the copies of half the size
    have at most .95. An enlarged copy has .95 to 1.03 of the detail of its original. A copy that was encoded again has
    up to 1.15 of the detail of its original, because artefacts count as detail.
    """
    square = _cut_square(image, landmarks5)
    scale = 126 / max(measure_eye_distance(landmarks5), 1e-3)
    size = [max(8, round(side * scale)) for side in square.shape[1::-1]]
    if min(square.shape[:2]) < 2 or max(size) > 4096:
        return 0.0
    gray = cv2.resize(compute_luma(square), size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    fine = cv2.GaussianBlur(gray, (0, 0), 0.7) - cv2.GaussianBlur(gray, (0, 0), 1.4)
    height, width = fine.shape
    inner = fine[height // 8 : height - height // 8, width // 8 : width - width // 8]
    return float(np.sqrt((inner**2).mean()) / (gray.std() + 1))


def measure_clipped(image: np.ndarray, landmarks5: np.ndarray) -> float:
    """Returns the share of a face's pixels in which at least one channel is 254 or more, 0 to 1.

    `image` is the photo, RGB uint8 (H, W, 3), and `landmarks5` (5, 2) are in its pixels.
    """
    square = _cut_square(image, landmarks5)
    pixels = square.shape[0] * square.shape[1]
    return (pixels - _count_pixels(square, 253)) / pixels if pixels else 0.0


def measure_dark(image: np.ndarray, landmarks5: np.ndarray) -> float:
    """Returns the share of a face's pixels whose three channels are all 16 or less, 0 to 1.

    `image` is the photo, RGB uint8 (H, W, 3), and `landmarks5` (5, 2) are in its pixels. The limit of 16 is ours: a
    pixel whose three channels are all 16 or less shows no structure. In most photos, hair, nostrils and shadows contain
    dark pixels. For 98% of 1,000 web faces, the share of dark pixels is at most .11. If the brightness of the 1,000 web
    faces is divided by eight, the share of dark pixels is at most .40 for 98% of the faces
    (benchmarks/target_measures.py).
    """
    square = _cut_square(image, landmarks5)
    pixels = square.shape[0] * square.shape[1]
    return _count_pixels(square, 16) / pixels if pixels else 0.0


def _count_pixels(square: np.ndarray, most: int) -> int:
    """Returns the number of pixels of RGB uint8 (H, W, 3) whose three channels are all at most `most`."""
    return int(cv2.countNonZero(cv2.inRange(square, (0, 0, 0), (most, most, most))))


def _cut_square(image: np.ndarray, landmarks5: np.ndarray) -> np.ndarray:
    """Returns the part of a photo around a face: a square whose side is twice the distance between the eyes.

    The part of the square outside the photo is left out.
    """
    centre, reach = np.asarray(landmarks5, np.float64).mean(0), measure_eye_distance(landmarks5)
    (x0, y0), (x1, y1) = np.floor(centre - reach).clip(0).astype(int), np.ceil(centre + reach).clip(0).astype(int)
    return image[y0:y1, x0:x1]


def hash_face(crop: np.ndarray) -> str:
    """Returns the perceptual hash of the face in a crop, uint8 (S, S, 3), FFHQ template: 256 bits as hex."""
    return _hash_small(cv2.resize(crop_inner_face(crop), (128, 128), interpolation=cv2.INTER_AREA))


def hash_picture(image: np.ndarray) -> tuple[str, str]:
    """Returns two perceptual hashes of RGB uint8 (H, W, 3), as hex: one of 64 bits and one of 256 bits.

    The picture is made small and gray. Each bit tells whether one of the low frequencies of the small picture is above
    the median of the low frequencies (Zauner 2010). The steps are the steps of imagehash.phash, except that the picture
    is first resized by area averages, because Pillow's antialiased resize of a whole photo is slow.
    """
    large = cv2.resize(image, (128, 128), interpolation=cv2.INTER_AREA)
    return _hash_small(cv2.resize(large, (64, 64), interpolation=cv2.INTER_AREA)), _hash_small(large)


def _hash_small(small: np.ndarray) -> str:
    """Returns the hash of an RGB picture, uint8 (8 n, 8 n, 3), as hex digits. The hash has n * n bits."""
    n = small.shape[0] // 8
    gray = Image.fromarray(small).convert("L").resize((n * 4, n * 4), Image.Resampling.LANCZOS)
    # Rounding errors must not count as frequencies.
    low = np.round(_cosines(n) @ np.asarray(gray, np.float64) @ _cosines(n).T, 6)
    return np.packbits(low > np.median(low)).tobytes().hex()


@cache
def _cosines(n: int) -> np.ndarray:
    """Returns the first n rows of the cosine transform of 4 n values, float64 (n, 4 n).

    A worker process does not use scipy.fft, because the import takes a quarter of the time in which a worker starts.
    """
    return np.cos(np.pi / (8 * n) * np.outer(np.arange(n), 2 * np.arange(4 * n) + 1))
