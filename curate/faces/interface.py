"""What a face model is, and how `--faces` finds one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Detection:
    """One face in a photo, in photo pixels."""

    box: np.ndarray  # float32 (4,): x0, y0, x1, y1
    landmarks5: np.ndarray  # float32 (5, 2), image left first
    score: float  # the detector's own scale


@dataclass(frozen=True)
class ModelFile:
    """A file that decides what a dataset contains."""

    role: str  # detector, recognizer or landmarks
    path: Path
    licence: str

    @property
    def sha256(self) -> str:
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class FaceDetector:
    """What finds faces, where nothing is to be recognized."""

    detect: Callable[[np.ndarray], list[Detection]]  # RGB uint8 (H, W, 3) -> faces, best score first
    min_score: float  # a detection below this is not believed


@dataclass(frozen=True)
class FaceModels:
    """A detector and a recognizer. Every array is on the CPU; results do not depend on threads."""

    spec: str  # what --faces resolved to; loads the same models again
    detect: Callable[[np.ndarray], list[Detection]]  # RGB uint8 (H, W, 3) -> faces, best score first
    # RGB uint8 (n, size, size, 3) in `template` -> float32 (n, dim) unit rows
    embed: Callable[[np.ndarray], np.ndarray]
    template: np.ndarray  # float64 (5, 2): where the recognizer wants the landmarks, in crops of `size`
    size: int  # pixels
    dim: int
    min_score: float  # a detection below this is not believed; its source stands where it is set
    same_person: float  # mean cosine of two groups of faces above which they are one person; likewise
    calibrates: (
        bool  # strangers' cosines lie around 0, so that grouping finds its own threshold and needs no such figure
    )
    files: tuple[ModelFile, ...]
    recognizer_onnx: Path | None = None  # for a differentiable copy of the recognizer; None where there is no ONNX file
    mean: float = 0.0  # the ONNX file's input is (RGB - mean) / std, RGB in 0..255
    std: float = 1.0
    notices: tuple[str, ...] = field(default=())  # what the user must be told about this choice

    def recognizer_sha256(self) -> str:
        return next(file.sha256 for file in self.files if file.role == "recognizer")


def normalise_rows(values: np.ndarray) -> np.ndarray:
    """float32 rows of length 1; a zero row stays zero."""
    values = np.asarray(values, np.float32)
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)
