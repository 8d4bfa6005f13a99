"""Warps a reference onto an input with a mesh of landmarks, as in ReFine's release.

The release finds 468 points with MediaPipe, whose package ships no models. We use dlib's 68 points, and 15 points of
the forehead, which follow from the 68 points. Delaunay's triangulation of the input's points is the mesh. Inside each
triangle, the warp is affine. The area outside the mesh is black, as in the release, so that a restorer cannot copy the
background of a reference.
"""

from __future__ import annotations

import cv2
import numpy as np
from scipy.spatial import Delaunay

from curate.faces.align import FFHQ_512, FFHQ_SIZE
from curate.faces.models.dlib_models import reduce_to_five
from manifests.errors import BadInput
from train.data.landmarks68 import explain_missing, find_68_points

# The parts of a restorer that warp references: WARPED by an affine map of five landmarks, and MESH by a mesh.
WARPED, MESH = "warped", "mesh"

# The 68 points end at the brows. For the forehead, the points of the jaw are mirrored at the line between the ears, and
# their distance from the line is multiplied by FOREHEAD. In MediaPipe's canonical face, the top of the face is half as
# far from this line as the chin is.
FOREHEAD = 0.5
# dlib returns 68 points for every crop, even if the points are wrong. The five landmarks that follow from dlib's points
# must be near the landmarks of the detector. AGREEMENT (ours) is the largest allowed mean distance between them, as a
# share of the distance between the eyes. benchmarks/landmark_error.py degraded 261 web faces. For each face, the script
# compared dlib's points, and the mean points of all faces, with the points of the clean face. With the preset
# `codeformer`, dlib's points are nearer than the mean points on 92% of the faces within AGREEMENT, and on 78% of the
# other faces. With `severe`, the two shares are 61% and 28%.
AGREEMENT = 0.15


def check_landmark_model(user: str) -> None:
    """Raises BadInput if dlib's landmark model is not on this machine. `user` names the recipe or the weights."""
    reason = explain_missing()
    if reason is not None:
        raise BadInput(
            f"{user} warps references with the 68 landmarks of dlib. {reason} Without a network, run pip download "
            "dlib-bin face_recognition_models on another machine, copy the files into a folder here, and run "
            "pip install --no-index --find-links FOLDER dlib-bin face_recognition_models."
        )


def warps_references(parts: tuple[str, ...]) -> bool:
    """Returns whether a restorer with these parts warps the references to the input."""
    return WARPED in parts or MESH in parts


def find_warp_points(parts: tuple[str, ...], crop: np.ndarray, landmarks5: np.ndarray | None) -> np.ndarray | None:
    """Returns the points of an aligned crop that a warp needs. Either the crop is warped from these points, or another
    crop is warped to these points. `parts` are the parts of the restorer.

    The points are `landmarks5` (5, 2) of the crop, or the mesh points (83, 2) for the part `mesh`. The result is None
    if no points were found.
    """
    return find_mesh_points(crop, landmarks5) if MESH in parts else landmarks5


def warp_reference(
    parts: tuple[str, ...], image: np.ndarray, points: np.ndarray | None, to: np.ndarray | None
) -> np.ndarray | None:
    """Warps a reference, uint8 (S,S,3), from `points` to `to`, as a restorer with the parts `parts` does.

    `find_warp_points` returns the points of the reference and of the input. The result is None if points are missing,
    or if train/data/warp.py refuses the warp. The reference is then used without a warp.
    """
    from train.data.warp import warp_to

    if points is None or to is None:
        return None
    try:
        return (warp_by_mesh if MESH in parts else warp_to)(image, points, to)
    except ValueError:
        return None


def find_mesh_points(crop: np.ndarray, landmarks5: np.ndarray | None) -> np.ndarray | None:
    """Returns the points of the mesh, float64 (83, 2), in pixels of an aligned crop, uint8 (S, S, 3).

    `landmarks5` (5, 2) are the landmarks that a detector found in the crop. The result is None if the detector found no
    face, or if dlib's landmarks do not agree with `landmarks5`.
    """
    if landmarks5 is None:
        return None
    scale = crop.shape[0] / FFHQ_SIZE
    points = (find_68_points(crop) + 0.5) * scale - 0.5
    eyes = float(np.linalg.norm(FFHQ_512[1] - FFHQ_512[0])) * scale
    apart = float(np.linalg.norm(reduce_to_five(points) - landmarks5, axis=1).mean())
    return add_forehead(points) if apart <= AGREEMENT * eyes else None  # NaN fails too


def add_forehead(points: np.ndarray) -> np.ndarray:
    """Returns the 68 iBUG points (68, 2) and 15 points of the forehead, float64 (83, 2)."""
    points = np.asarray(points, np.float64)
    ear, line = points[0], points[16] - points[0]
    along = line / np.linalg.norm(line)
    across = np.array([-along[1], along[0]])
    jaw = points[1:16] - ear
    forehead = ear + np.outer(jaw @ along, along) - FOREHEAD * np.outer(jaw @ across, across)
    return np.concatenate([points, forehead])


def warp_by_mesh(image: np.ndarray, points: np.ndarray, to: np.ndarray) -> np.ndarray:
    """Returns a crop, uint8 (S,S,3), after the piecewise affine warp from `points` (n,2) to `to` (n,2).

    All points are in pixels of crops with the same size. A pixel is black if it lies outside the convex hull of `to`,
    or if the warp would take it from outside the crop.
    """
    mesh, size = Delaunay(to), image.shape[0]
    pixels = np.stack(np.meshgrid(np.arange(size), np.arange(size)), axis=-1).reshape(-1, 2).astype(np.float64)
    triangle = mesh.find_simplex(pixels)
    inside = triangle >= 0
    # For each pixel inside the mesh, `weights` (m, 3) are its barycentric coordinates in its triangle of the input.
    # `source` is the place that has the same coordinates in the triangle of the reference.
    transform = mesh.transform[triangle[inside]]
    first = np.einsum("nij,nj->ni", transform[:, :2], pixels[inside] - transform[:, 2])
    weights = np.concatenate([first, 1 - first.sum(1, keepdims=True)], axis=1)
    source = np.full(pixels.shape, -2.0)  # a place outside the crop, which cv2.remap paints black
    source[inside] = np.einsum("nk,nkj->nj", weights, points[mesh.simplices[triangle[inside]]])
    x, y = source.astype(np.float32).reshape(size, size, 2).transpose(2, 0, 1)
    return cv2.remap(image, np.ascontiguousarray(x), np.ascontiguousarray(y), cv2.INTER_LINEAR)
