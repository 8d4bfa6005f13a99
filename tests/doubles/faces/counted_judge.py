"""Makes a judge that works in batches, as on a device, and counts the images of each batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from curate.faces.interface import Detection, FaceModels
from curate.faces.networks.devices import Device

# A device that computes on onnxruntime's CPU provider.
GPU = Device("cuda", "CPUExecutionProvider", "onnxruntime-gpu", photos=3, faces=4, memory="cpu")


class CountedJudge:
    """Counts the images of each call of a judge. The judge searches up to three images at once."""

    def __init__(self, plain: FaceModels) -> None:
        self.embedded, self.searched = list[int](), list[int]()
        self.networks = tuple(SimpleNamespace(batch=3, device=GPU, notices=list[str]()) for _ in range(2))

        def embed(crops: np.ndarray) -> np.ndarray:
            self.embedded.append(len(crops))
            return plain.embed(crops)

        def detect_many(images: Sequence[np.ndarray], eyes: float) -> list[list[Detection]]:
            self.searched.append(len(images))
            return [plain.detect(image) for image in images]

        self.models = replace(plain, embed=embed, detect=pytest.fail, detect_many=detect_many, networks=self.networks)

    def take(self) -> tuple[list[int], list[int]]:
        """Returns the numbers of images of all calls since the last call of `take`."""
        taken = self.embedded, self.searched
        self.embedded, self.searched = [], []
        return taken
