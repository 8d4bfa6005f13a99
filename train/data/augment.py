"""What happens to references alone, each on its own, so that a reference is never the target's very picture.

Through albumentations (extra `albumentations`). Strengths are ReF-LDM's: colour .2, .2, .2, .02, rotation 2 degrees,
shift 5%, scale .95 to 1.05, and a perspective, whose strength has another unit here (ours).
"""

from __future__ import annotations

import os
from functools import cache
from typing import Any

import cv2
import numpy as np

from manifests.errors import BadInput

PERSPECTIVE = (0.02, 0.05)  # deviation of the corners, share of the side (ours; ReF-LDM: torchvision's .2)


@cache
def _transform() -> Any:
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it would ask the package index for news on import
    try:
        import albumentations as A
    except ImportError:
        raise BadInput(
            "This recipe augments references through albumentations: pip install 'likeness[albumentations]'."
        ) from None
    border = {"border_mode": cv2.BORDER_REFLECT_101}
    return A.Compose(
        [
            A.ColorJitter(brightness=(0.8, 1.2), contrast=(0.8, 1.2), saturation=(0.8, 1.2), hue=(-0.02, 0.02), p=1),
            A.Affine(rotate=(-2, 2), translate_percent=(-0.05, 0.05), scale=(0.95, 1.05), p=1, **border),
            A.Perspective(scale=PERSPECTIVE, p=1, **border),
        ],
        keypoint_params=A.KeypointParams(format="xy", remove_invisible=False),
    )


def check_augment() -> None:
    """Raise BadInput where albumentations is not installed."""
    _transform()


def augmented(image: np.ndarray, landmarks5: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A reference, uint8 (S,S,3), and its landmarks (5,2) after it, by `seed` alone."""
    transform = _transform()
    transform.set_random_seed(seed)
    done = transform(image=image, keypoints=landmarks5.astype(np.float32))
    # a mirrored border brings mirrored copies of the landmarks along: the face's own are those that moved least
    copies = np.asarray(done["keypoints"], np.float32).reshape(-1, *landmarks5.shape)
    return done["image"], copies[np.abs(copies - landmarks5).sum((1, 2)).argmin()]
