"""Finds the 98 landmarks of AWing's network, which VQFR's script of the metric LMD compares.

The network is a stack of hourglasses (Wang et al. 2019, "Adaptive Wing Loss"). Likeness does not contain its
architecture, so the network has to be an ONNX file or a TorchScript file.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch

from curate.faces.align import FFHQ_SIZE
from manifests.errors import BadInput
from train.losses.backbones import explain_wrong_file, find_local_file
from train.metrics.networks.onnx_network import load_network

FILES = ("alignment_WFLW_4HG.pt", "alignment_WFLW_4HG.onnx")
POINTS, SIDE, MAP = 98, 256, 64  # the number of points, the side of the input and the side of a heatmap in pixels


def explain_missing(weights: Path | None) -> str | None:
    """Returns a sentence that says why the 98 points cannot be found, or None if the network's file exists."""
    if find_file(weights) is not None:
        return None
    return (
        f"{FILES[0]} is missing: trace the network of facexlib's alignment_WFLW_4HG.pth with torch.jit.trace, or write "
        f"it as {FILES[1]}, put the file into a folder, and give the folder with --weights FOLDER."
    )


def find_file(weights: Path | None) -> Path | None:
    """Returns the path of the network's file, or None if the file is missing. Raises BadInput if `weights` is not a
    folder."""
    paths = (find_local_file(name, weights) for name in FILES)
    return next((path for path in paths if path is not None), None)


def load_awing(weights: Path | None) -> Callable[[np.ndarray], np.ndarray]:
    """Returns the function that maps an aligned face, RGB uint8 (S, S, 3), to its points.

    The points are float64 (98, 2), in pixels of a 512 px crop. As in VQFR's script, an image without a face gets points
    too. Raises BadInput if the file is missing or is not the network.
    """
    path, reason = find_file(weights), explain_missing(weights)
    if path is None:
        raise BadInput(f"AWing's points cannot be found: {reason}")

    def compute_heatmaps(image: torch.Tensor) -> np.ndarray:
        with torch.inference_mode():
            output = network(image)
        # facexlib's network returns a list of the heatmaps of all hourglasses, and then a list of boundary maps.
        while not isinstance(output, torch.Tensor):
            output = output[0] if isinstance(output[0], list | tuple) else output[-1]
        if output.shape not in ((1, POINTS, MAP, MAP), (1, POINTS + 1, MAP, MAP)):
            raise ValueError(f"its output has the shape {tuple(output.shape)}, not (1, 99, 64, 64)")
        return np.asarray(output[0, :POINTS].numpy())  # the last map shows the boundary of the face

    with explain_wrong_file(f"{path} does not contain AWing's network", "replace this file"):
        network = load_network(path)
        compute_heatmaps(torch.zeros(1, 3, SIDE, SIDE))

    def find_points(image: np.ndarray) -> np.ndarray:
        small = cv2.resize(image, (SIDE, SIDE))
        planes = torch.from_numpy(np.ascontiguousarray(small.transpose(2, 0, 1))).float() / 255
        return read_points(compute_heatmaps(planes[None])) * (FFHQ_SIZE / MAP)

    return find_points


def read_points(heatmaps: np.ndarray) -> np.ndarray:
    """Returns the points (98, 2), x and y, of heatmaps (98, 64, 64), in pixels of a heatmap.

    A point is the centre of the pixel with the highest value, moved by a quarter of a pixel to the higher neighbour
    along x and along y. Two rules are as in facexlib's code: if any of the 98 points is in the first row (or is the
    first pixel of the second row), the upper neighbour of every point is the first pixel of its heatmap. If any point
    is in the last row, the lower neighbour of every point is the last pixel of its heatmap.
    """
    flat = heatmaps.reshape(len(heatmaps), -1)
    best, rows = flat.argmax(1), np.arange(len(flat))
    last = flat.shape[1] - 1
    right, left = flat[rows, np.minimum(best + 1, last)], flat[rows, best - 1]
    below = flat[:, last] if (best + MAP > last).any() else flat[rows, best + MAP]
    above = flat[:, 0] if (best - MAP <= 0).any() else flat[rows, best - MAP]
    towards = np.sign(np.stack([right - left, below - above], 1))
    return np.stack([best % MAP, best // MAP], 1) + 0.25 * towards + 0.5
