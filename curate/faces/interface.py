"""The interface of all face models: the detector, the recognizer, the model files, and the detections."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from curate.faces.networks.network import Network


@dataclass(frozen=True)
class Detection:
    """One face that a detector found in a photo. Box and landmarks are in photo pixels."""

    box: np.ndarray  # The coordinates x0, y0, x1, y1, float32 (4,).
    landmarks5: np.ndarray  # The five landmarks, float32 (5, 2), in the order of curate/faces/align.py.
    score: float  # Score of the detection, on the detector's own scale.
    # The counterclockwise turn of the photo that makes the face upright: 0, 90, 180 or 270 degrees.
    turn: int = 0
    # The detector can look a second time, at the aligned crop of the face (curate/faces/second_look.py).
    # `landmark_error` is the root mean square distance between the landmarks of the two looks, divided by the distance
    # between the eyes of a frontal face. `landmark_error` is infinite if the second look finds no face, and None
    # without a second look.
    landmark_error: float | None = None
    is_turn_clear: bool = True  # False if detector and recognizer do not agree on the turn


Detect = Callable[[np.ndarray], list[Detection]]
DetectSmall = Callable[[np.ndarray, float], list[Detection]]
DetectMany = Callable[[Sequence[np.ndarray], float], list[list[Detection]]]


@dataclass(frozen=True)
class ModelFile:
    """A file of a face model.

    The ledger records the hash of the file, because a different file gives different results.
    """

    role: str  # "detector", "recognizer" or "landmarks"
    path: Path
    licence: str

    @property
    def sha256(self) -> str:
        """Returns the sha256 of the file's bytes, as hex."""
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class FaceDetector:
    """A detector without a recognizer."""

    detect: Detect  # RGB uint8 (H, W, 3) -> faces, best score first.
    min_score: float  # Detections with a score below `min_score` are ignored.
    # The following fields have the same meaning as the fields of `FaceModels`.
    detect_small: DetectSmall | None = None
    detect_in_crop: Detect | None = None
    sure_score: float = 0.0


@dataclass(frozen=True)
class FaceModels:
    """A detector and a recognizer.

    All arrays are in the memory of the CPU. In our tests with 1 to 8 threads, the number of threads did not change a
    result. Another processor may change the last bits of a result, because onnxruntime chooses its code by the
    processor's vector instructions. Another device may also change the last bits, and TensorRT may change more bits
    (docs/speed.md).
    """

    spec: str  # `load_faces(spec)` loads the same models again; `spec` is never `auto`.
    detect: Detect  # RGB uint8 (H, W, 3) -> faces, best score first.
    # RGB uint8 (n, size, size, 3), aligned to `template` -> unit embeddings, float32 (n, dim)
    embed: Callable[[np.ndarray], np.ndarray]
    template: np.ndarray  # float64 (5, 2): the positions of the landmarks in the recognizer's crops, in pixels.
    size: int  # Side of the recognizer's crops, in pixels.
    dim: int  # Number of values in an embedding.
    min_score: float  # Detections with a score below `min_score` are ignored.
    same_person: float  # Two groups of faces with a mean cosine of `same_person` or more show one person.
    # Whether the cosines between faces of different people are near 0. If the cosines are near 0, the grouping
    # estimates its own threshold and does not use `same_person`.
    strangers_near_zero: bool
    files: tuple[ModelFile, ...]
    # Path of the recognizer's ONNX file, which training converts to a torch network. `recognizer_onnx` is None if the
    # recognizer is not an ONNX model.
    recognizer_onnx: Path | None = None
    # RGB uint8 (n, size, size, 3) -> embeddings before the normalisation, float32 (n, dim). A clear face has a long
    # embedding. `embed_raw` is None if the length of an embedding says nothing about the face.
    embed_raw: Callable[[np.ndarray], np.ndarray] | None = None
    mean: float = 0.0  # the input of the ONNX model is (RGB - mean) / std, with RGB from 0 to 255
    std: float = 1.0
    # RGB uint8 (H, W, 3), smallest distance between the eyes in pixels -> faces, best score first. `detect_small` also
    # finds the small faces of a large photo, which `detect` misses. `detect_small` also returns faint faces, which have
    # a score below `min_score`. `find_faces` keeps a faint face only if a second look confirms the face. If
    # `detect_small` is None, `detect` is used.
    detect_small: DetectSmall | None = None
    # Several photos, smallest distance between the eyes in pixels -> for each photo, the result of `detect_small`. If
    # `detect_many` is None, the photos are searched one by one.
    detect_many: DetectMany | None = None
    # RGB uint8 (S, S, 3), a crop around one face -> faces, best score first. If `detect_in_crop` is None, `detect` is
    # used.
    detect_in_crop: Detect | None = None
    # Width and height of a photo -> the distance between the eyes of the smallest faces that `detect` finds in the
    # photo, in pixels. If `measure_reach` is None, `detect` finds faces of all sizes.
    measure_reach: Callable[[int, int], float] | None = None
    sure_score: float = 0.0  # A face with a score of `sure_score` or more and plausible landmarks counts as upright.
    notices: tuple[str, ...] = field(default=())  # Sentences for the user about the choice of the models.
    networks: tuple[Network, ...] = ()  # The detector and the recognizer; empty if onnxruntime does not run them.
    # Other processes load the models with this value of --device. The value is `cpu` if the detector did not start on
    # the chosen device. Otherwise, the value is the chosen device, even if the recognizer did not start on this device.
    device_to_load: str = "cpu"

    @property
    def device(self) -> str:
        """Returns the name of the device that computes embeddings now. A device that fails is replaced by the CPU."""
        return self.networks[-1].device.name if self.networks else "cpu"

    @property
    def photos_at_once(self) -> int:
        """Returns the number of photos that `detect_many` searches in one run of the detector."""
        return self.networks[0].batch if self.networks else 1

    def list_failures(self) -> tuple[str, ...]:
        """Returns sentences for the user about failures of the device until now."""
        return tuple(notice for network in self.networks for notice in network.notices)

    def recognizer_sha256(self) -> str:
        """Returns the sha256 of the recognizer's file, as hex."""
        return next(file.sha256 for file in self.files if file.role == "recognizer")


def normalise_rows(values: np.ndarray) -> np.ndarray:
    """Returns the rows of `values` (n, d), divided by their length, as float32. A row of zeros does not change."""
    values = np.asarray(values, np.float32)
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)
