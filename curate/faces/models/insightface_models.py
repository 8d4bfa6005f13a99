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
        finder = Network("detector", detector_onnx, device, device.photos, threads)
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

        detector = Scrfd(Network("detector", onnx.load(str(file)), CPU, 1, threads), DETECTOR_INPUTS, MIN_SCORE)
    except Exception as error:  # onnx and onnxruntime raise many kinds of errors on a broken file
        raise FaceModelError(f"The detector {file} cannot be loaded: {first_line(error)}.") from None
    return FaceDetector(
        make_detect(detector), MIN_SCORE, make_detect_small(detector), make_detect_in_crop(detector), SURE_SCORE
    )


def replace_prelu(model: Any) -> Any:
    """Replaces each PRelu of a network by s x + (1 - s) max(x, 0), where s is its slope. Returns the changed network.

    The embeddings change by 1e-6. In our measurement, MobileFaceNet with PRelu takes 5.1 ms for a face. MobileFaceNet
    without PRelu takes 3.1 ms. onnxruntime computes convolutions in a blocked memory layout. onnxruntime has no PRelu
    for the blocked layout, so it would convert the data before and after each PRelu. The product with s is written as a
    1 x 1 convolution with one group for each channel, which onnxruntime computes in the blocked layout.
    """
    from onnx import helper, numpy_helper

    graph = model.graph
    weights = {weight.name: weight for weight in graph.initializer}
    nodes = []
    for node in graph.node:
        slope = weights.get(node.input[1]) if node.op_type == "PRelu" else None
        # A PRelu is replaced only if it has one slope for each channel, (C, 1, 1).
        if slope is None or len(slope.dims) != 3 or tuple(slope.dims[1:]) != (1, 1):
            nodes.append(node)
            continue
        values = numpy_helper.to_array(slope).reshape(-1, 1, 1, 1)
        source, target = node.input[0], node.output[0]
        for part, scale in (("line", values), ("bend", 1 - values)):
            graph.initializer.append(numpy_helper.from_array(scale, f"{target}_{part}_scale"))
        channels: dict[str, Any] = {"group": len(values), "kernel_shape": [1, 1]}
        nodes += [
            helper.make_node("Relu", [source], [f"{target}_positive"]),
            helper.make_node("Conv", [f"{target}_positive", f"{target}_bend_scale"], [f"{target}_bend"], **channels),
            helper.make_node("Conv", [source, f"{target}_line_scale"], [f"{target}_line"], **channels),
            helper.make_node("Add", [f"{target}_line", f"{target}_bend"], [target]),
        ]
    del graph.node[:]
    graph.node.extend(nodes)
    return model


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
