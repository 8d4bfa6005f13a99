"""Runs a plain loop with insightface, and groups its faces. Benchmarks compare the groups with our curation.

The loop calls `FaceAnalysis.get(cv2.imread(path))` with the same models as curation, and keeps every face. The peers
are the clustering methods with which grouping_quality.py compares our method, and have the same settings here. The
benchmarks use the peer and the setting whose scores on the labels of the same photos are best. Without labels, a user
could not choose so well.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from grouping_quality import list_peers
from grouping_scores import score_grouping


def has_peers() -> bool:
    """Returns whether the clustering methods are installed. `pip install '.[peers]'` installs these methods."""
    return all(find_spec(package) is not None for package in ("dlib", "infomap", "sklearn"))


def find_faces_in_loop(files: Sequence[Path], folder: Path) -> dict[Path, list[Any]]:
    """Returns the faces that insightface finds in each photo, the largest first. `folder` contains the models.

    A face has `bbox`, float (4,), and `normed_embedding`, float (d,) of length 1.
    """
    app = _load_app(str(folder))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # insightface calls functions that scikit-image deprecates
        faces_of = {Path(file): app.get(cv2.imread(str(file))) for file in files}
    return {file: sorted(faces, key=lambda face: face.bbox[0] - face.bbox[2]) for file, faces in faces_of.items()}


def group_by_best_peer(faces_of: dict[Path, list[Any]], names: dict[Path, str]) -> tuple[dict[Path, str], str]:
    """Returns a dict that maps each photo with a face to the group of its largest face, and the name of the method.

    `names` maps each photo to its label. The method and the setting with the best sum of pair F and BCubed F are used.
    """
    files = [file for file, faces in faces_of.items() if faces]
    rows = [(file, face.normed_embedding) for file in files for face in faces_of[file]]
    vectors = np.stack([embedding for _, embedding in rows]).astype(np.float32)
    first = np.cumsum([0, *(len(faces_of[file]) for file in files)])[:-1]  # the row of each photo's largest face
    truth = [names[file] for file in files]
    best_score, best = -1.0, ({}, "")
    for method, settings in list_peers(vectors):
        for setting, run in settings.items():
            labels = np.asarray(run())[first]
            scores = score_grouping(truth, labels)
            if (score := scores["pair_f"] + scores["bcubed_f"]) > best_score:
                best_score = score
                best = ({file: str(label) for file, label in zip(files, labels, strict=True)}, f"{method} {setting}")
    return best


@cache
def _load_app(folder: str) -> Any:
    from insightface.app import FaceAnalysis

    app = FaceAnalysis(name=folder, allowed_modules=["detection", "recognition"])
    app.prepare(0)
    return app
