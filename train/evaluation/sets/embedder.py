"""Embeds crops with the recognizer of a restorer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from curate.faces.align import embed_faces
from curate.faces.interface import FaceModels

# Maps K photos in the FFHQ template, uint8 (S, S, 3), to the unit embeddings of the restorer's recognizer, float32 (K,
# d).
Embed = Callable[[Sequence[np.ndarray]], np.ndarray]


def make_embedder(recognizer: FaceModels) -> Embed:
    """Returns a function that embeds crops in the FFHQ template."""
    return lambda crops: embed_faces(crops, recognizer)
