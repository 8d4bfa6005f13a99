"""InsightFace packs: SCRFD detection and ArcFace embeddings through onnxruntime.

insightface itself is asked only to download: its import and its sessions for every file of a pack cost seconds.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from curate.faces.align import ARCFACE_112
from curate.faces.errors import FaceModelError, NoSuchModels
from curate.faces.interface import Detection, FaceDetector, FaceModels, ModelFile, normalise_rows
from curate.faces.scrfd import Scrfd

PACK_ROOT = Path("~/.insightface/models").expanduser()
LICENCE = "InsightFace model licence: non-commercial research only, unless the pack says otherwise"

# insightface's own default pair of detector inputs: the small one finds faces that fill the picture
DETECTOR_INPUTS = (128, 640)
MIN_SCORE = 0.5  # insightface's default det_thresh
# Faces a run of the recognizer: more leave the cache (MobileFaceNet: 3.1 ms a face at 1, 3.3 at 4, 3.7 at 16; ours)
EMBED_BATCH = 4

# Mean cosine of two groups of faces above which they are one person. Ours, measured on web photos with a MobileFaceNet
# pack. Restoring asks it of a face and its references; grouping finds its own threshold.
SAME_PERSON = 0.30


def list_packs(root: Path = PACK_ROOT) -> list[str]:
    """Names of packs with ONNX files under insightface's own folder; buffalo_l first, then by name."""
    if not root.is_dir():
        return []
    names = sorted(folder.name for folder in root.iterdir() if folder.is_dir() and any(folder.glob("*.onnx")))
    return sorted(names, key=lambda name: name != "buffalo_l")


def load_insightface(pack: str, threads: int = 1) -> FaceModels:
    """A pack by name (downloaded by insightface where it is not on disk) or by folder. Raises FaceModelError."""
    try:
        import onnx
        import onnxruntime  # noqa: F401 (asked for here, so that its absence is a sentence)
    except ImportError as error:
        raise FaceModelError(f"onnx and onnxruntime are needed ({error}): pip install likeness again.") from None
    folder = Path(pack).expanduser()
    if not folder.is_dir():
        if os.sep in pack or pack.startswith((".", "~")):
            raise NoSuchModels(f"insightface:{pack} names no face models: there is no such folder.")
        folder = PACK_ROOT / pack
    on_disk = folder.is_dir()
    name = str(folder) if on_disk else pack
    if not on_disk:
        folder = _download_pack(pack)
    if (folder / "manifest.json").exists():
        raise FaceModelError(f"{name} holds a manifest.json, a newer kind of pack: name a folder of .onnx files alone.")
    try:
        files: dict[str, tuple[Path, Any]] = {}
        for path in sorted(folder.glob("*.onnx")):
            model = onnx.load(str(path))
            files.setdefault(_find_role(model), (path, model))
        if "detector" not in files:
            raise FaceModelError(f"{name} holds no face detector (SCRFD .onnx): name the folder that does.")
        if "recognizer" not in files:
            raise FaceModelError(f"{name} holds no recognizer (ArcFace .onnx): name the folder that does.")
        (detector_file, detecting), (recognizer_file, recognizing) = files["detector"], files["recognizer"]
        mean, std = _find_normalisation(recognizing)
        (batch, *_, size), (*_, dim) = _read_shapes(recognizing)
        detector = Scrfd(_start_session(detecting, threads), DETECTOR_INPUTS, MIN_SCORE)
        recognizer = _start_session(replace_prelu(recognizing), threads)
    except FaceModelError:
        raise
    except Exception as error:  # protobuf and ONNX errors of two libraries
        raise FaceModelError(f"The pack in {folder} cannot be loaded: {_first_line(error)}") from None
    if size != 112:
        raise FaceModelError(f"The recognizer in {name} wants {size} px crops; only 112 px ArcFace models are known.")
    if detector.layout is None or not detector.layout[2]:
        raise FaceModelError(f"The detector in {name} finds no landmarks: use an SCRFD model with keypoints (kps).")

    def embed(crops: np.ndarray) -> np.ndarray:
        blob = cv2.dnn.blobFromImages(list(crops), 1.0 / std, (size, size), (mean, mean, mean))
        source = recognizer.get_inputs()[0].name
        step = 1 if batch == 1 else EMBED_BATCH
        parts = [blob[at : at + step] for at in range(0, len(blob), step)]
        return normalise_rows(np.concatenate([recognizer.run(None, {source: part})[0] for part in parts]))

    return FaceModels(
        spec=f"insightface:{folder.resolve() if on_disk else pack}",
        detect=_make_detect(detector),
        embed=embed,
        template=ARCFACE_112,
        size=size,
        dim=dim,
        min_score=MIN_SCORE,
        same_person=SAME_PERSON,
        calibrates=True,
        files=(ModelFile("detector", detector_file, LICENCE), ModelFile("recognizer", recognizer_file, LICENCE)),
        recognizer_onnx=recognizer_file,
        mean=mean,
        std=std,
    )


def load_detector(file: Path, threads: int = 1) -> FaceDetector:
    """The SCRFD detector in an ONNX file alone, at insightface's own inputs and threshold. Raises FaceModelError."""
    try:
        import onnx

        detector = Scrfd(_start_session(onnx.load(str(file)), threads), DETECTOR_INPUTS, MIN_SCORE)
    except Exception as error:  # protobuf and ONNX errors of two libraries
        raise FaceModelError(f"The detector {file} cannot be loaded: {_first_line(error)}") from None
    return FaceDetector(_make_detect(detector), MIN_SCORE)


def _start_session(model: Any, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = threads
    options.log_severity_level = 3  # other sizes than a graph's own are a warning a photo
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _make_detect(detector: Scrfd) -> Callable[[np.ndarray], list[Detection]]:
    def detect(image: np.ndarray) -> list[Detection]:
        if max(image.shape[:2]) > DETECTOR_INPUTS[0] * min(image.shape[:2]):
            return []  # too thin: shrunk to the smaller input, its short side would be nothing
        found = [
            Detection(box, points, float(score)) for box, points, score in zip(*detector.detect(image), strict=True)
        ]
        return sorted(found, key=lambda face: (-face.score, *face.box.tolist()))

    return detect


def replace_prelu(model: Any) -> Any:
    """The same network with each PRelu as s x + (1 - s) max(x, 0), in place; embeddings differ by 1e-6.

    onnxruntime has no PRelu in the blocked layout that its convolutions use, and turns every activation over and back;
    convolutions of 1 x 1 a channel it has (MobileFaceNet: 5.1 -> 3.1 ms a face; ours).
    """
    from onnx import helper, numpy_helper

    graph = model.graph
    weights = {weight.name: weight for weight in graph.initializer}
    nodes = []
    for node in graph.node:
        slope = weights.get(node.input[1]) if node.op_type == "PRelu" else None
        # one slope a channel of an image: (C, 1, 1)
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
    """The folder of a pack that insightface downloads."""
    try:
        from insightface.utils import ensure_available
    except ImportError as error:
        raise FaceModelError(f"insightface is needed ({error}): pip install likeness again.") from None
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # insightface prints its download's progress
            return Path(ensure_available("models", pack))
    except Exception:  # network and archive errors of many libraries
        raise FaceModelError(
            f"The pack {pack} is not in {PACK_ROOT} and could not be downloaded: put its .onnx files into a folder and "
            f"say --faces insightface:FOLDER, or say --faces dlib."
        ) from None


def _find_inputs(model: Any) -> list[Any]:
    """What the network is fed; old files name their weights as inputs, too."""
    weights = {weight.name for weight in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in weights]


def _read_shapes(model: Any) -> tuple[list[int], list[int]]:
    """The shapes of the first input and the first output; 0 where a side is free."""
    both = _find_inputs(model)[0], model.graph.output[0]
    inside, outside = ([side.dim_value for side in value.type.tensor_type.shape.dim] for value in both)
    return inside, outside


def _find_role(model: Any) -> str:
    """detector, recognizer or other, told apart by shapes as insightface's model_zoo does."""
    if len(model.graph.output) >= 5:
        return "detector"
    sides = _read_shapes(model)[0][2:4]
    square = len(sides) == 2 and sides[0] == sides[1] and sides[0] >= 112 and sides[0] % 16 == 0 and sides[0] != 192
    return "recognizer" if square and len(_find_inputs(model)) == 1 else "other"


def _find_normalisation(model: Any) -> tuple[float, float]:
    """Mean and deviation of a recognizer's input; MXNet's graphs normalise themselves (insightface's arcface_onnx)."""
    first = [node.name for node in model.graph.node[:8]]
    inside = any(name.startswith(("Sub", "_minus")) for name in first) and any(
        name.startswith(("Mul", "_mul")) for name in first
    )
    return (0.0, 1.0) if inside else (127.5, 127.5)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
