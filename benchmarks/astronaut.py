"""Makes a degraded photo of the astronaut Eileen Collins, with references, for pictures that may be published.

`likeness demo` makes all photos as variations of one portrait in scikit-image (NASA, public domain). The references are
therefore more similar to the target than other photos of a person would be.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from curate.demo import SITTERS, write_demo_photos
from curate.faces.align import FFHQ_512, FFHQ_SIZE, align_face, crop_for_recognizer, find_valid_pixels
from curate.faces.interface import FaceModels
from degrade.operations.apply import apply
from degrade.operations.pixels import shrink, to_float, to_uint8
from degrade.presets import Preset
from degrade.sampling import make_generator, sample_theta
from manifests.pictures.images import decode
from train.data.tensors import to_image, to_tensor
from train.models.restorer import Restorer
from train.restore.references.reference_photos import References
from train.restore.restorers.load_restorer import run_model


class Astronaut(NamedTuple):
    """Holds the faces. The images are uint8 (S, S, 3)."""

    lq: np.ndarray
    target: np.ndarray
    references: tuple[np.ndarray, ...]
    valid: np.ndarray  # bool (S, S): the target's pixels that come from its photo
    embeddings: np.ndarray  # float32 (1 + K, d): the embeddings of the target and of the references

    def restore(self, model: Restorer) -> np.ndarray:
        """Returns the face that the model restores with the references, uint8 (S, S, 3)."""
        references = References(np.stack(self.references), self.embeddings[1:])
        return to_image(run_model(model, to_tensor(self.lq)[None], references)[0])


def make_astronaut(models: FaceModels, size: int, preset: Preset, seed: int, references: int = 2) -> Astronaut:
    """Returns the faces with `size` x `size` px. `seed` draws the variations of the portrait and the degradation."""
    sitter = next(one for one in SITTERS if one.file.endswith("astronaut.png"))
    crops: list[np.ndarray] = []
    valid = np.ones((size, size), bool)
    with tempfile.TemporaryDirectory() as scratch:
        write_demo_photos(Path(scratch), make_generator("astronaut", seed))
        for path in sorted(Path(scratch).glob(f"{sitter.name}-*.jpg")):
            photo = decode(path)
            if faces := models.detect(photo):
                if not crops:  # the first photo is the target
                    valid = find_valid_pixels(faces[0].landmarks5, photo.shape[1], photo.shape[0], size)
                crops.append(align_face(photo, faces[0].landmarks5, FFHQ_512, FFHQ_SIZE))
    crops = crops[: 1 + references]
    target, *others = (shrink(crop, size) for crop in crops)
    chips = np.stack([crop_for_recognizer(crop, models.template, models.size) for crop in crops])
    lq = to_uint8(apply(to_float(target), sample_theta(preset, seed, "astronaut")))
    return Astronaut(lq, target, tuple(others), valid, models.embed(chips))
