"""What is measured on a face: pose from five landmarks, sharpness, blockiness, noise, exposure, a perceptual hash."""

from __future__ import annotations

import cv2
import numpy as np
from PIL import Image
from scipy.fft import dctn

from curate.faces.align import FFHQ_512

# A head in millimetres, x to the image's right, y down, z away from the camera, for the five landmarks (ours: eye
# distance 63 mm is the adult mean; nose tip 30 mm before the eyes, mouth corners 50 mm apart and 5 mm behind the eyes'
# plane; heights read off FFHQ_512 so that the mean FFHQ face has yaw, pitch and roll near 0).
_HEAD = np.array([[-31.5, 0, 0], [31.5, 0, 0], [0, 37, -30], [-28, 65.7, -4], [28, 65.7, -4]], np.float64)


def measure_eye_distance(landmarks5: np.ndarray) -> float:
    """Distance between the eye centres of (5, 2), in the landmarks' own pixels."""
    return float(np.hypot(*(np.asarray(landmarks5[1], np.float64) - np.asarray(landmarks5[0], np.float64))))


def estimate_pose(landmarks5: np.ndarray) -> tuple[float, float, float]:
    """Yaw, pitch and roll in degrees of a face with landmarks (5, 2), from a weak-perspective fit to a rigid head.

    Yaw is positive when the nose points to the image's right, pitch when it points down, roll clockwise. Good for
    sorting and for screening out profiles; not a substitute for a pose network.
    """
    points = np.asarray(landmarks5, np.float64)
    head = _HEAD - _HEAD.mean(0)
    motion, *_ = np.linalg.lstsq(head, points - points.mean(0), rcond=None)
    u, _, vt = np.linalg.svd(motion.T, full_matrices=False)  # nearest pair of orthonormal rows
    first, second = u @ vt
    rotation = np.stack([first, second, np.cross(first, second)])
    yaw = float(np.degrees(np.arcsin(np.clip(-rotation[0, 2], -1, 1))))
    pitch = float(np.degrees(np.arctan2(-rotation[1, 2], rotation[2, 2])))
    roll = float(np.degrees(np.arctan2(rotation[1, 0], rotation[0, 0])))
    return yaw, pitch - _PITCH_OF_FFHQ, roll


_PITCH_OF_FFHQ = 0.0
_PITCH_OF_FFHQ = estimate_pose(FFHQ_512)[1]


def crop_inner_face(crop: np.ndarray) -> np.ndarray:
    """The inner face of an FFHQ-template crop (S, S, 3): brows to chin, cheek to cheek."""
    size = crop.shape[0]
    return crop[int(0.35 * size) : int(0.85 * size), int(0.25 * size) : int(0.75 * size)]


def compute_luma(image: np.ndarray) -> np.ndarray:
    """BT.601 luma, float32 0..255, of RGB uint8."""
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)


def measure_sharpness(crop: np.ndarray) -> float:
    """Sharpness of the inner face at 128 px: standard deviation of the Laplacian over that of the luma; no unit, ours.

    Measured at one small size, so that it says whether the face is sharp enough to learn from at 128 px and is not
    dominated by sensor noise; the quotient takes lighting contrast out.
    """
    small = cv2.resize(crop, (128, 128), interpolation=cv2.INTER_AREA)
    gray = compute_luma(crop_inner_face(small))
    spread = float(gray.std())
    return float(cv2.Laplacian(gray, cv2.CV_32F).std()) / spread if spread > 1e-3 else 0.0


def measure_blockiness(gray: np.ndarray) -> float:
    """How much stronger steps on the 8 x 8 JPEG grid are than elsewhere, in (H, W) luma at the photo's own pixels.

    1 means no grid. Ours, after the difference-signal measure of Wang, Bovik and Evans (2000). 1 for less than 24 px.
    """
    height, width = gray.shape
    if min(height, width) < 24:
        return 1.0
    ratios = []
    for steps in (np.abs(np.diff(gray, axis=1)).mean(0), np.abs(np.diff(gray, axis=0)).mean(1)):
        on = steps[7::8].mean()
        off = np.delete(steps, np.arange(7, len(steps), 8)).mean()
        ratios.append((float(on) + 1e-3) / (float(off) + 1e-3))
    return float(np.mean(ratios))


# the difference of two Laplacians, of norm 6: nothing flat, no slope and no edge along x or y passes (Immerkaer 1996)
_NOISE_MASK = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)


def measure_noise(gray: np.ndarray) -> float:
    """Standard deviation of the noise in (H, W) luma at the photo's own pixels, 0..255; 0 for less than 8 px.

    Immerkaer's (1996) mask, with Donoho and Johnstone's (1994) median(|d|) / .6745 in the place of his mean, which
    lashes, hair and edges do not move: on 36 web faces of 80 px between the eyes, halved so that little noise is left,
    it reads 1.5 where the mean reads 2.4 and the median of a Haar or db2 wavelet's diagonal 2.2 or 1.8; with noise of
    5, 10 and 20 added it reads 5.7, 10.4 and 19.8 (ours). Sharp skin and hair read about 1 to 4, JPEG and enlarging
    take noise out: a high figure says noisy, a low one says little.
    """
    if min(gray.shape) < 8:
        return 0.0
    found = cv2.filter2D(gray, cv2.CV_32F, _NOISE_MASK)[1:-1, 1:-1]
    return float(np.median(np.abs(found)) / (6 * 0.6745))


def measure_exposure(crop: np.ndarray) -> float:
    """Mean luma of the inner face, 0..1."""
    return float(compute_luma(crop_inner_face(crop)).mean() / 255.0)


def hash_picture(image: np.ndarray, side: int = 8) -> str:
    """Perceptual DCT hash of RGB uint8 as hex, side * side bits: the bits that imagehash.phash gives.

    The low frequencies of a small gray copy, each bit saying whether one lies above their median (Zauner 2010).
    """
    # area-resize first: the antialiased resize of a full photo costs more than everything else here
    small = Image.fromarray(cv2.resize(image, (side * 8, side * 8), interpolation=cv2.INTER_AREA))
    gray = np.asarray(small.convert("L").resize((side * 4, side * 4), Image.Resampling.LANCZOS), np.float64)
    low = dctn(gray, type=2)[:side, :side]
    return np.packbits(low > np.median(low)).tobytes().hex()
