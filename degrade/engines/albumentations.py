"""Our degradation as a transform of albumentations 2.0.8 (extra `albumentations`).

    transform = A.ReplayCompose([A.HorizontalFlip(), FaceDegradation("gfpgan")], additional_targets={"target": "image"})
    pair = transform(image=hq, target=hq)       # both flipped, `image` degraded, `target` clean

θ is drawn from the transform's own generator, so that `Compose(seed=...)` decides it, and stands in the replay.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from degrade.operations.apply import apply, apply_to_pixels
from degrade.presets import find_preset
from degrade.theta import Theta

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it would ask the package index for news while it is imported

from albumentations.core.transforms_interface import (
    BaseTransformInitSchema,
    ImageOnlyTransform,
)


class FaceDegradation(ImageOnlyTransform):  # type: ignore[misc, unused-ignore]
    """Degrade RGB pictures (H, W, 3), uint8 or float32 in 0..1, by a θ of `preset`; shape and dtype stay.

    `preset` is a name of docs/degrade.md. Of the pictures in a call, those named in `only` are degraded, all by one θ,
    and the others pass: an additional target is clean unless it is named. `images` is a stack (N, H, W, 3). float32
    comes back with values on the 1/255 grid, as an 8-bit file would hold it.

    Raises BadInput for an unknown preset, and when called with a gray, RGBA or 16-bit picture, or one that is too
    small for its θ.
    """

    _key2func: dict[str, Callable[..., Any]]

    class InitSchema(BaseTransformInitSchema):  # type: ignore[misc, unused-ignore]
        preset: str
        only: Sequence[str]

    def __init__(self, preset: str = "gfpgan", only: Sequence[str] = ("image", "images"), p: float = 1.0) -> None:
        super().__init__(p=p)
        self._preset = find_preset(preset)
        self.preset, self.only = preset, tuple(only)
        self._keep_only()

    @property
    def targets(self) -> dict[str, Callable[..., Any]]:
        return {"image": self.apply, "images": self.apply_to_images}

    def add_targets(self, additional_targets: dict[str, str]) -> None:
        super().add_targets(additional_targets)
        self._keep_only()

    def _keep_only(self) -> None:
        functions: dict[str, Callable[..., Any]] = self._key2func
        self._key2func = {name: function for name, function in functions.items() if name in self.only}

    def get_params(self) -> dict[str, Any]:
        """Draw θ."""
        return {"theta": self._preset.sample(self.random_generator)}

    def apply(self, img: NDArray[Any], theta: Theta, **params: Any) -> NDArray[Any]:
        return apply_to_pixels(img, theta) if img.dtype == np.uint8 else apply(img, theta)
