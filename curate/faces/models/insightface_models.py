"""Loads InsightFace packs, and runs their SCRFD detector and ArcFace recognizer with onnxruntime.

Likeness uses the package insightface only to download packs. If insightface loaded the packs, each start would take
some seconds more.
"""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from curate.faces.align import ARCFACE_112
from curate.faces.errors import FaceModelError, NoSuchModels
from curate.faces.interface import FaceDetector, FaceModels, ModelFile, normalise_rows
from curate.faces.models.scrfd import Scrfd
from curate.faces.models.scrfd_faces import (
    DETECTOR_INPUTS,
    MIN_SCORE,
    SURE_SCORE,
    make_detect,
    make_detect_in_crop,
    make_detect_many,
    make_detect_small,
    make_measure_reach,
)
from curate.faces.networks.devices import CPU, Device
from curate.faces.networks.faster_networks import join_convolutions, replace_prelu
from curate.faces.networks.network import Network, first_line

PACK_ROOT = Path("~/.insightface/models").expanduser()
LICENCE = "InsightFace model licence: non-commercial research only, unless the pack says otherwise"

# Two groups of faces show one person if their mean cosine is SAME_PERSON or more. SAME_PERSON is our measurement on web
# photos with a MobileFaceNet pack. Restoration uses SAME_PERSON to decide whether a face and its references show one
# person. The grouping does not use SAME_PERSON, but estimates a threshold from the collection.
SAME_PERSON = 0.30


def list_packs(root: Path = PACK_ROOT) -> list[str]:
    """Returns the names of the packs with ONNX files in insightface's own folder: first buffalo_l, then the others,
    sorted.
    """
    if not root.is_dir():
        return []
    names = sorted(folder.name for folder in root.iterdir() if folder.is_dir() and any(folder.glob("*.onnx")))
    return sorted(names, key=lambda name: name != "buffalo_l")


def load_insightface(pack: str, threads: int = 1, device: Device = CPU) -> FaceModels:
    """Returns the models of a pack, which run on `device`. `pack` is the name or the folder of the pack.

    insightface downloads a pack that is not on the disk. If the device does not start, the models run on the CPU, and
    `FaceModels.list_failures` says so. Raises NoSuchModels if the folder does not exist. Raises FaceModelError if the
    pack cannot be downloaded or loaded, or if the pack has no recognizer, or no detector that returns landmarks.
    """
    try:
        import onnx
        import onnxruntime  # noqa: F401 (imported here, so that a missing package gives a clear message)
    except ImportError as error:
        raise FaceModelError(f"onnx or onnxruntime is missing ({error}). Install likeness again with pip.") from None
    folder = Path(pack).expanduser()
    if not folder.is_dir():
        if os.sep in pack or pack.startswith((".", "~")):
            raise NoSuchModels(
                f"insightface:{pack} names no face models, because there is no such folder. Name a folder that exists."
            )
        folder = PACK_ROOT / pack
    on_disk = folder.is_dir()
    name = str(folder) if on_disk else pack
    if not on_disk:
        folder = _download_pack(pack)
    if (folder / "manifest.json").exists():
        raise FaceModelError(
            f"{name} is a newer kind of pack with a manifest.json, which Likeness cannot read. Name a folder that "
            "contains only .onnx files."
        )
    try:
        files: dict[str, tuple[Path, Any]] = {}
        for path in sorted(folder.glob("*.onnx")):
            model = onnx.load(str(path))
            files.setdefault(_find_role(model), (path, model))
        if "detector" not in files:
            raise FaceModelError(f"{name} contains no face detector (SCRFD, .onnx). Name a folder with a detector.")
        if "recognizer" not in files:
            raise FaceModelError(f"{name} contains no recognizer (ArcFace, .onnx). Name a folder with a recognizer.")
        (detector_file, detector_onnx), (recognizer_file, recognizer_onnx) = files["detector"], files["recognizer"]
        mean, std = _find_normalisation(recognizer_onnx)
        (batch, *_, size), (*_, dim) = _read_shapes(recognizer_onnx)
        finder = Network("detector", join_convolutions(detector_onnx), device, device.photos, threads)
        detector = Scrfd(finder, DETECTOR_INPUTS, MIN_SCORE)
        if finder.device is not device:
            finder.notices.append(f"The recognizer does not try the device {device.name}, and runs on the CPU, too.")
        faces_at_once = 1 if batch == 1 else finder.device.faces
        recognizer = Network("recognizer", replace_prelu(recognizer_onnx), finder.device, faces_at_once, threads)
    except FaceModelError:
        raise
    except Exception as error:  # onnx and onnxruntime raise many kinds of errors on a broken file
        raise FaceModelError(f"The pack in {folder} cannot be loaded: {first_line(error)}.") from None
    if size != 112:
        raise FaceModelError(
            f"The recognizer in {name} needs crops of {size} pixels. Use an ArcFace model for crops of 112 pixels."
        )
    if detector.layout is None or not detector.layout[2]:
        raise FaceModelError(f"The detector in {name} finds no landmarks. Use an SCRFD model with keypoints (kps).")

    def embed_raw(crops: np.ndarray) -> np.ndarray:
        blob = cv2.dnn.blobFromImages(list(crops), 1.0 / std, (size, size), (mean, mean, mean))
        return recognizer.run(None, {recognizer.get_inputs()[0].name: blob})[0]

    return FaceModels(
        spec=f"insightface:{folder.resolve() if on_disk else pack}",
        detect=make_detect(detector),
        embed=lambda crops: normalise_rows(embed_raw(crops)),
        embed_raw=embed_raw,
        template=ARCFACE_112,
        size=size,
        dim=dim,
        min_score=MIN_SCORE,
        same_person=SAME_PERSON,
        strangers_near_zero=True,
        files=(ModelFile("detector", detector_file, LICENCE), ModelFile("recognizer", recognizer_file, LICENCE)),
        recognizer_onnx=recognizer_file,
        mean=mean,
        std=std,
        detect_small=make_detect_small(detector),
        detect_many=make_detect_many(detector),
        detect_in_crop=make_detect_in_crop(detector),
        sure_score=SURE_SCORE,
        measure_reach=make_measure_reach(detector),
        networks=(finder, recognizer),
        device_to_load=finder.device.name,
    )


def load_detector(file: Path, threads: int = 1) -> FaceDetector:
    """Returns the SCRFD detector in an ONNX file, with insightface's default input sizes and threshold.

    Raises FaceModelError if the file cannot be loaded.
    """
    try:
        import onnx

        detector = Scrfd(
            Network("detector", join_convolutions(onnx.load(str(file))), CPU, 1, threads), DETECTOR_INPUTS, MIN_SCORE
        )
    except Exception as error:  # onnx and onnxruntime raise many kinds of errors on a broken file
        raise FaceModelError(f"The detector {file} cannot be loaded: {first_line(error)}.") from None
    return FaceDetector(
        make_detect(detector), MIN_SCORE, make_detect_small(detector), make_detect_in_crop(detector), SURE_SCORE
    )


def _download_pack(pack: str) -> Path:
    """Lets insightface download a pack. Returns the pack's folder."""
    try:
        from insightface.utils import ensure_available
    except ImportError as error:
        raise FaceModelError(f"insightface is missing ({error}). Install likeness again with pip.") from None
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # insightface prints the progress of the download
            return Path(ensure_available("models", pack))
    except Exception:  # several libraries raise errors about the internet connection and about archives
        raise FaceModelError(
            f"The pack {pack} is not in {PACK_ROOT} and cannot be downloaded. Put the pack's .onnx files into a folder "
            "and give --faces insightface:FOLDER, or give --faces dlib."
        ) from None


def _find_inputs(model: Any) -> list[Any]:
    """Returns the inputs of a network. The weights, which old files list among the inputs, are left out."""
    weights = {weight.name for weight in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in weights]


def _read_shapes(model: Any) -> tuple[list[int], list[int]]:
    """Returns the shapes of the first input and the first output. A dimension without a fixed length is 0."""
    values = _find_inputs(model)[0], model.graph.output[0]
    input_shape, output_shape = ([side.dim_value for side in value.type.tensor_type.shape.dim] for value in values)
    return input_shape, output_shape


def _find_role(model: Any) -> str:
    """Returns `detector`, `recognizer` or `other`.

    The kind of a model follows from the shapes of its inputs and outputs, as in insightface's model_zoo.
    """
    if len(model.graph.output) >= 5:
        return "detector"
    sides = _read_shapes(model)[0][2:4]
    square = len(sides) == 2 and sides[0] == sides[1] and sides[0] >= 112 and sides[0] % 16 == 0 and sides[0] != 192
    return "recognizer" if square and len(_find_inputs(model)) == 1 else "other"


def _find_normalisation(model: Any) -> tuple[float, float]:
    """Returns the mean and the standard deviation that normalise the recognizer's input.

    A network that was converted from MXNet normalises its input itself. For a network from MXNet, the function returns
    0 and 1, as insightface's arcface_onnx does.
    """
    first = [node.name for node in model.graph.node[:8]]
    normalises = any(name.startswith(("Sub", "_minus")) for name in first) and any(
        name.startswith(("Mul", "_mul")) for name in first
    )
    return (0.0, 1.0) if normalises else (127.5, 127.5)
