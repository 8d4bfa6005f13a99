"""Offers the degradation as a transform of albumentations 2.0.8 (extra `albumentations`).

    transform = A.ReplayCompose([A.HorizontalFlip(), FaceDegradation("gfpgan")], additional_targets={"target": "image"})
    pair = transform(image=hq, target=hq)       # flips both images, and degrades only `image`

θ is drawn from the transform's own generator, so θ depends on `Compose(seed=...)`. The dict `replay` in the result of
`ReplayCompose` contains θ.
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

# If NO_ALBUMENTATIONS_UPDATE is not set, the import of albumentations asks the package index for a newer version.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

from albumentations.core.transforms_interface import (
    BaseTransformInitSchema,
    ImageOnlyTransform,
)


class FaceDegradation(ImageOnlyTransform):  # type: ignore[misc, unused-ignore]
    """Degrades RGB images (H, W, 3), uint8 or float32 in 0..1, with a θ that is drawn from `preset`.

    `preset` is the name of a preset in docs/degrade.md, or a .toml or .json file. A degraded image keeps its shape and
    dtype. `only` contains the names of the targets that are degraded; all other targets stay clean. One call degrades
    all its images with the same θ. The target `images` is a stack (N, H, W, 3). A float32 result has values on the
    1/255 grid, like the content of an 8-bit file.

    Raises BadInput for an unknown preset. A call raises BadInput for an image that is gray, RGBA, 16-bit, or too small
    for its θ.
    """

    _key2func: dict[str, Callable[..., Any]]

    class InitSchema(BaseTransformInitSchema):  # type: ignore[misc, unused-ignore]
        preset: str
        only: Sequence[str]

    def __init__(self, preset: str = "gfpgan", only: Sequence[str] = ("image", "images"), p: float = 1.0) -> None:
        super().__init__(p=p)
        self._preset = find_preset(preset)
        self.preset, self.only = preset, tuple(only)
        self._drop_other_targets()

    @property
    def targets(self) -> dict[str, Callable[..., Any]]:
        return {"image": self.apply, "images": self.apply_to_images}

    def add_targets(self, additional_targets: dict[str, str]) -> None:
        super().add_targets(additional_targets)
        self._drop_other_targets()

    def _drop_other_targets(self) -> None:
        functions: dict[str, Callable[..., Any]] = self._key2func
        self._key2func = {name: function for name, function in functions.items() if name in self.only}

    def get_params(self) -> dict[str, Any]:
        """Draws a new θ for one call."""
        return {"theta": self._preset.sample(self.random_generator)}

    def apply(self, img: NDArray[Any], theta: Theta, **params: Any) -> NDArray[Any]:
        return apply_to_pixels(img, theta) if img.dtype == np.uint8 else apply(img, theta)
