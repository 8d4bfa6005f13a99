"""Defines the options of an evaluation, and the metrics that are measured if the user names none."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

# `evaluate` computes these metrics if the user does not give --metrics. LPIPS and DISTS are left out if their weights
# are missing.
DEFAULT_METRICS = (
    "psnr",
    "ssim",
    "lpips",
    "dists",
    "id_target",
    "same_person",
    "id_references",
    "face_restored",
    "copy_ratio",
)

# `evaluate` computes these metrics for a set without targets, if the user does not give --metrics. A restorer can
# raise the identity to the references (IPS) by copying the references. The identity to the input and the agreement with
# the input are therefore measured, too.
WITHOUT_TARGET_METRICS = (
    "niqe",
    "musiq",
    "maniqa",
    "clipiqa",
    "id_references",
    "id_input",
    "input_agreement",
    "face_restored",
)


@dataclass(frozen=True)
class EvaluationOptions:
    """Holds the options of an evaluation: the metrics, the judge and the number of references."""

    references: int = 4  # The largest number of references of an image.
    counts: tuple[int, ...] = ()  # Additional numbers of references to measure, each between 0 and `references`.
    metrics: tuple[str, ...] = DEFAULT_METRICS
    judge: str | None = None  # A --faces value. None means the dataset's own recognizer.
    faces: str | None = None  # A --faces value for the restorer's recognizer, if the recognizer's files were moved.
    base_model: str | None = None  # The folder of the diffusion model, if it was moved.
    steps: int = 1  # The number of steps in which a face is restored.
    weights: Path | None = None  # The folder of the metrics' networks.
    crop_border: int = 0  # The number of pixels that PSNR and SSIM cut off at each side of an image.
    fid_folder: Path | None = None  # The folder of images for the metric fid_folder.
    fid_statistics: Path | None = None  # The file of statistics for the metric fid_statistics.
    fid_convention: str | None = None  # A key of CONVENTIONS. None means the convention of fid_statistics, or DEFAULT.
    seed: int = 0  # The seed for the draws of the references and for the bootstrap.
    # True: images of people that a run was trained on are not measured. False: a run with such people is refused.
    leave_out_seen: bool = False
    # True: measures only images that are in every folder of restored images. False: refuses a folder that lacks images.
    partial: bool = False
    slices: tuple[str, ...] = ()  # The columns by which the results are divided into slices.
