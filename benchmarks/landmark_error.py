"""Measures how exactly the landmarks of the mesh warp are found on degraded faces.

    python benchmarks/landmark_error.py PHOTOS --models FOLDER [--faces 1000] [--size 256] [--keep]

PHOTOS is a folder of photos with clean faces. The benchmark uses the largest face of each photo, if the aligned crop of
`--size` pixels was not enlarged. --models is the folder of an InsightFace pack, whose detector finds five landmarks.
Each face is degraded one time at each strength, with a θ that depends only on the name of the photo. The landmarks on
the degraded face are compared with the landmarks on the clean crop of 512 pixels. The error of a face is the mean
distance of dlib's 68 points, divided by the distance between the eyes of the clean face.

The warp uses only the points that agree with the detector (train/data/mesh.py). `failures` is the share of degraded
faces whose points do not agree, or in which the detector finds no face. `median`, `mean` and `p90` are over the other
faces. `median_of_all` is over all faces. `median_of_mean_face` is the error of a guess that does not use the degraded
face: the mean points of all clean faces. `better` is the share of the faces on which dlib's points have a smaller error
than the mean points. `better` has two values: the first is for the faces whose points agree, the second is for the
failures. `median_of_five` is the median error of the detector's five landmarks, over all faces that the detector finds.
The affine warp moves the references to these five landmarks.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from record_result import record_result

from curate.faces.align import FFHQ_512, FFHQ_SIZE, align_face, compute_scale, fit_similarity, scale_template
from curate.faces.find_faces import find_usable_faces
from curate.faces.interface import FaceModels
from curate.faces.load import load_faces
from curate.faces.models.dlib_models import reduce_to_five
from degrade.operations.apply import apply_to_pixels
from degrade.operations.pixels import shrink
from degrade.sampling import sample_theta
from manifests.errors import BadInput
from manifests.pictures.images import decode
from train.data.landmarks import choose_largest_face, find_landmarks
from train.data.landmarks68 import find_68_points
from train.data.mesh import check_landmark_model, find_mesh_points
from train.recipes.training_presets import find_training_preset

STRENGTHS = ("clean", "mild", "refine", "codeformer", "severe")


class CleanFace(NamedTuple):
    """Holds the clean crop of a face and its landmarks, in pixels of the crop."""

    name: str  # The folder and name of the photo. θ is drawn from this text.
    crop: np.ndarray  # uint8 (512, 512, 3), aligned to the FFHQ template.
    points: np.ndarray  # (68, 2), from dlib.
    landmarks5: np.ndarray  # (5, 2), from the detector.

    @property
    def eyes(self) -> float:
        """Returns the distance between the eyes, in pixels."""
        left, right = reduce_to_five(self.points)[:2]
        return float(np.linalg.norm(right - left))


class Found(NamedTuple):
    """Holds what was found on one degraded face. The errors are shares of the distance between the eyes."""

    agrees: bool  # True if the warp uses dlib's points.
    error: float  # The error of dlib's points, even if the warp does not use these points.
    mean_face_error: float
    five_error: float | None  # None if the detector finds no face.


def read_clean_faces(
    files: Sequence[Path], models: FaceModels, size: int, most: int
) -> tuple[list[CleanFace], dict[str, int]]:
    """Returns up to `most` clean faces, and for each reason the number of photos that were left out."""
    faces, left_out = list[CleanFace](), {"unreadable": 0, "no_face": 0, "small": 0, "no_landmarks": 0}
    for file in files:
        if len(faces) == most:
            break
        try:
            photo = decode(file)
        except BadInput:
            left_out["unreadable"] += 1
            continue
        detections = find_usable_faces(photo, models)
        if not detections:
            left_out["no_face"] += 1
            continue
        landmarks5 = choose_largest_face(detections).landmarks5
        if compute_scale(fit_similarity(landmarks5, scale_template(FFHQ_512, FFHQ_SIZE, size))) > 1:
            left_out["small"] += 1
            continue
        crop = align_face(photo, landmarks5, FFHQ_512, FFHQ_SIZE)
        found = find_landmarks(crop, models)
        if found is None or find_mesh_points(crop, found) is None:
            left_out["no_landmarks"] += 1
            continue
        faces.append(CleanFace(f"{file.parent.name}/{file.name}", crop, find_68_points(crop), found))
    return faces, left_out


def find_on_lq(face: CleanFace, lq: np.ndarray, mean_points: np.ndarray, models: FaceModels) -> Found:
    """Compares the landmarks on a degraded face, uint8 (S, S, 3), with those of the clean face."""
    found = find_landmarks(lq, models)

    def measure(points: np.ndarray, clean: np.ndarray) -> float:
        return float(np.linalg.norm(points - clean, axis=1).mean()) / face.eyes

    five = None if found is None else measure((found + 0.5) * (FFHQ_SIZE / lq.shape[0]) - 0.5, face.landmarks5)
    agrees = find_mesh_points(lq, found) is not None
    return Found(agrees, measure(find_68_points(lq), face.points), measure(mean_points, face.points), five)


def summarise(found: Sequence[Found]) -> dict[str, Any]:
    """Returns the figures of one strength of the degradation. A figure is None if no face has a value for it."""

    def median(values: list[float]) -> float | None:
        return round(float(np.median(values)), 4) if values else None

    def share(values: list[bool]) -> float | None:
        return round(float(np.mean(values)), 3) if values else None

    used, failed = [one for one in found if one.agrees], [one for one in found if not one.agrees]
    errors = [one.error for one in used]
    return {
        "failures": share([not one.agrees for one in found]),
        "no_face": share([one.five_error is None for one in found]),
        "median": median(errors),
        "mean": round(float(np.mean(errors)), 4) if errors else None,
        "p90": round(float(np.quantile(errors, 0.9)), 4) if errors else None,
        "median_of_all": median([one.error for one in found]),
        "median_of_mean_face": median([one.mean_face_error for one in found]),
        "better": [share([one.error < one.mean_face_error for one in part]) for part in (used, failed)],
        "median_of_five": median([one.five_error for one in found if one.five_error is not None]),
    }


def measure_strengths(faces: Sequence[CleanFace], models: FaceModels, size: int) -> dict[str, dict[str, Any]]:
    """Returns the figures of each strength. The faces are degraded at `size` pixels."""
    mean_points = np.mean([face.points for face in faces], axis=0)
    table = {}
    for strength in STRENGTHS:
        preset = find_training_preset(strength, {})
        found = []
        for face in faces:
            lq = apply_to_pixels(shrink(face.crop, size), sample_theta(preset, 0, face.name))
            found.append(find_on_lq(face, lq, mean_points, models))
        table[strength] = summarise(found)
        print(f"{strength}: {table[strength]}", flush=True)
    return table


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--models", required=True, type=Path, help="the folder of an InsightFace pack")
    parser.add_argument("--faces", type=int, default=1000, help="the largest number of faces")
    parser.add_argument("--size", type=int, default=256, help="the side of the degraded crops, in pixels")
    parser.add_argument("--keep", action="store_true", help="write benchmarks/results/landmark_error.json")
    options = parser.parse_args()
    check_landmark_model("This benchmark")
    models = load_faces(f"insightface:{options.models}")
    every = [path for path in options.photos.rglob("*") if path.is_file()]
    # The files are sorted by a hash, so that even a few faces come from many people.
    files = sorted(every, key=lambda path: hashlib.sha256(str(path.relative_to(options.photos)).encode()).digest())
    faces, left_out = read_clean_faces(files, models, options.size, options.faces)
    people = len({face.name.split("/")[0] for face in faces})
    print(f"{len(faces)} faces in photos of {people} folders; left out: {left_out}", flush=True)
    result = {
        "faces": len(faces),
        "folders": people,
        "left_out": left_out,
        "size": options.size,
        "strengths": measure_strengths(faces, models, options.size),
    }
    record_result("landmark_error", result, options.keep)


if __name__ == "__main__":
    main()
