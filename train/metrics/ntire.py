"""Computes the score and the identity gate of the NTIRE challenge on real-world face restoration (2025 and 2026).

The source is the repository jkwang28/NTIRE2026_RealWorld_Face_Restoration: README.md and eval.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

GATE = "id_input_adaface"  # The metric of the identity gate.
# The six metrics of the score, in the order of the formula.
PARTS = ("clipiqa", "maniqa", "musiq", "niqe", "qalign", "fid_statistics")
FID_CONVENTION = "pytorch-fid"  # the convention of VQFR's script, with which the challenge computes FID

# The threshold for the cosine in each subset, from the challenge's README.md. Two thresholds are lower in the
# challenge's eval.py of 2026: .20 for Wider-Test and .25 for WebPhoto-Test.
THRESHOLDS = {"CelebA": 0.50, "LFW-Test": 0.60, "CelebChild-Test": 0.60, "Wider-Test": 0.30, "WebPhoto-Test": 0.30}
MOST_BELOW = 10  # a submission fails if more faces than this are below their thresholds


def compute_terms(means: Mapping[str, float]) -> dict[str, float]:
    """Returns a dict from each metric in PARTS to its term of the score.

    `means` maps each metric to its mean over all images. The score is the sum of the six terms. Raises KeyError if a
    metric is missing.
    """
    return {
        "clipiqa": means["clipiqa"],
        "maniqa": means["maniqa"],
        "musiq": means["musiq"] / 100,
        "niqe": max(0.0, (10 - means["niqe"]) / 10),
        "qalign": means["qalign"] / 5,
        "fid_statistics": max(0.0, (100 - means["fid_statistics"]) / 100),
    }


@dataclass(frozen=True)
class Gate:
    """Holds the result of the identity gate for one system."""

    images: int  # The number of images that were compared.
    below: dict[str, int]  # Maps a subset to the number of its faces below the threshold.
    passes: bool


def apply_gate(cosines: Sequence[float], subsets: Sequence[str]) -> Gate:
    """Returns the result of the gate.

    `cosines` has, for each image, the cosine between AdaFace's embeddings of the restored face and of its input.
    `subsets` has the subset of each image. Each subset is a key of THRESHOLDS.
    """
    below = dict.fromkeys(dict.fromkeys(subsets), 0)
    for cosine, subset in zip(cosines, subsets, strict=True):
        below[subset] += cosine < THRESHOLDS[subset]
    return Gate(len(cosines), below, sum(below.values()) <= MOST_BELOW)
