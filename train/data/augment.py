"""Augments each reference separately, so that no reference is the same picture as the target.

The library albumentations (extra `albumentations`) changes the pixels. The strengths are from ReF-LDM: brightness,
contrast and saturation .2, hue .02, rotation 2 degrees, shift 5%, scale .95 to 1.05. Each reference also gets a random
perspective. The strength of the perspective is ours, because albumentations and ReF-LDM give this strength in different
units.
"""

from __future__ import annotations

import os
from functools import cache
from typing import Any

import cv2
import numpy as np

from manifests.errors import BadInput

# The perspective moves each corner by a share of the image side. PERSPECTIVE (ours) is the range from which the
# share is drawn. ReF-LDM uses torchvision's perspective with the strength .2, which has another unit.
PERSPECTIVE = (0.02, 0.05)


@cache
def _transform() -> Any:
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # otherwise albumentations looks for a newer version online
    try:
        import albumentations as A
    except ImportError:
        raise BadInput(
            "This recipe augments references with albumentations, which is not installed: run "
            "pip install 'likeness[albumentations]'."
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


def check_albumentations() -> None:
    """Raises BadInput if albumentations is not installed."""
    _transform()


def augment_reference(image: np.ndarray, landmarks5: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the augmented reference, uint8 (S,S,3), and its new landmarks (5,2), float32 in pixels.

    The same arguments give the same result.
    """
    transform = _transform()
    transform.set_random_seed(seed)
    done = transform(image=image, keypoints=landmarks5.astype(np.float32))
    # The border is mirrored, so albumentations returns the landmarks and several mirrored sets of landmarks. The set
    # nearest to the old landmarks is the one that is not mirrored.
    copies = np.asarray(done["keypoints"], np.float32).reshape(-1, *landmarks5.shape)
    return done["image"], copies[np.abs(copies - landmarks5).sum((1, 2)).argmin()]
