"""Loads the judge, the recognizer that measures identity in a benchmark.

The recognizer with which the restorer was trained is refused as the judge.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from curate.faces.interface import FaceModels
    from train.models.restorer import Restorer


def load_judge(spec: str, model: Restorer) -> FaceModels:
    """Returns the judge `spec`, for example dlib.

    If a restorer was trained with a recognizer, this recognizer gives too high scores to the results of the restorer.
    If the judge is the recognizer of the training, the benchmark ends with an error message.
    """
    from curate.faces.load import load_faces

    judge = load_faces(spec)
    if judge.recognizer_sha256() == model.facts["recognizer"]["sha256"]:
        sys.exit(f"{judge.spec} is the recognizer that the restorer was trained with: give another --judge.")
    return judge
