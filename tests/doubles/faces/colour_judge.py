"""Makes a judge that compares coarse colours, and photos that the judge can tell apart."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from curate.faces.align import FFHQ_512, FFHQ_SIZE
from curate.faces.interface import Detection, FaceModels, normalise_rows
from tests.doubles.training import models_of, picture


def judge() -> FaceModels:
    """Returns face models that compare coarse colours, and that find a face in every picture that is not flat.

    The brighter a picture is, the further to the right is its face.
    """

    def embed(chips: np.ndarray) -> np.ndarray:
        coarse = [cv2.resize(chip, (6, 6), interpolation=cv2.INTER_AREA).astype(float).ravel() - 128 for chip in chips]
        return normalise_rows(np.stack(coarse))

    def detect(image: np.ndarray) -> list[Detection]:
        if image.std() < 5:
            return []
        points = (FFHQ_512 + 0.5) * (len(image) / FFHQ_SIZE) - 0.5 + [image.mean() / 20, 0]
        return [Detection(np.array([0, 0, 9, 9], np.float32), points.astype(np.float32), 0.9)]

    return replace(models_of(Path("none")), embed=embed, detect=detect)


def photo(person: int, number: int, size: int = 128) -> np.ndarray:
    """Returns a picture with the coarse colours of a person and the fine texture of a photo."""
    fine = np.random.default_rng([person, number]).normal(0, 14, (size, size, 3))
    return np.clip(picture(person, number, size) + cv2.GaussianBlur(fine, (0, 0), 0.8), 0, 255).astype(np.uint8)
