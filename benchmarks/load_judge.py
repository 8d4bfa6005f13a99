"""Loads the recognizer that measures identity in a benchmark, and refuses the recognizer of the training."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from curate.faces.interface import FaceModels
    from train.models.restorer import Restorer


def load_judge(spec: str, model: Restorer) -> FaceModels:
    """Returns the judge `spec`, for example dlib.

    A restorer that was trained with a recognizer looks better to this recognizer than it is. If the judge is this
    recognizer, the benchmark ends with a sentence.
    """
    from curate.faces.load import load_faces

    judge = load_faces(spec)
    if judge.recognizer_sha256() == model.facts["recognizer"]["sha256"]:
        sys.exit(f"{judge.spec} is the recognizer that the restorer was trained with: give another --judge.")
    return judge
