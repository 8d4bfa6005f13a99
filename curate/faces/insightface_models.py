"""InsightFace packs: SCRFD detection and ArcFace embeddings through onnxruntime."""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path

import numpy as np

from curate.faces.align import ARCFACE_112
from curate.faces.errors import FaceModelError, NoSuchModels
from curate.faces.models import Detection, FaceModels, ModelFile, unit_rows

PACK_ROOT = Path("~/.insightface/models").expanduser()
LICENCE = "InsightFace model licence: non-commercial research only, unless the pack says otherwise"

# insightface's own default pair of detector inputs: the small one finds faces that fill the picture
DETECTOR_INPUTS = [(128, 128), (640, 640)]
MIN_SCORE = 0.5  # insightface's default det_thresh

# Mean cosine between two groups above which they are one person, under average linkage. Ours, measured by
# benchmarks/grouping.py on web photos with a MobileFaceNet pack; between what the same method wants on a
# collection of much-photographed people (.25) and on one of many single-photo people (.40).
SAME_PERSON = 0.30


def packs_on_disk(root: Path = PACK_ROOT) -> list[str]:
    """Names of packs with ONNX files under insightface's own folder; buffalo_l first, then by name."""
    if not root.is_dir():
        return []
    names = sorted(folder.name for folder in root.iterdir() if folder.is_dir() and any(folder.glob("*.onnx")))
    return sorted(names, key=lambda name: name != "buffalo_l")


def load_insightface(pack: str, threads: int = 1) -> FaceModels:
    """A pack by name (downloaded by insightface where it is not on disk) or by folder. Raises FaceModelError."""
    try:
        import onnxruntime
        from insightface.app import FaceAnalysis
    except ImportError as error:
        raise FaceModelError(f"insightface and onnxruntime are needed ({error}): pip install likeness again.") from None
    folder = Path(pack).expanduser()
    if not folder.is_dir():
        if os.sep in pack or pack.startswith((".", "~")):
            raise NoSuchModels(f"insightface:{pack} names no face models: there is no such folder.")
        folder = PACK_ROOT / pack
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = threads
    name = str(folder) if folder.is_dir() else pack
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # insightface prints its download's progress
            app = FaceAnalysis(name=name, allowed_modules=["detection", "recognition"], sess_options=options)
    except AssertionError:
        raise FaceModelError(f"{name} holds no face detector (SCRFD .onnx): name the folder that does.") from None
    except Exception as error:  # network, archive and ONNX errors of many libraries
        if folder.is_dir():
            raise FaceModelError(f"The pack in {folder} cannot be loaded: {_first_line(error)}") from None
        raise FaceModelError(
            f"The pack {pack} is not in {PACK_ROOT} and could not be downloaded: put its .onnx files into a folder and "
            f"say --faces insightface:FOLDER, or say --faces dlib."
        ) from None
    if "recognition" not in app.models:
        raise FaceModelError(f"{name} holds no recognizer (ArcFace .onnx): name the folder that does.")
    detector, recognizer = app.models["detection"], app.models["recognition"]
    detector.prepare(0, input_size=DETECTOR_INPUTS, det_thresh=MIN_SCORE)
    size = int(recognizer.input_size[0])
    if size != 112:
        raise FaceModelError(f"The recognizer in {name} wants {size} px crops; only 112 px ArcFace models are known.")

    def detect(image: np.ndarray) -> list[Detection]:
        if max(image.shape[:2]) > DETECTOR_INPUTS[0][0] * min(image.shape[:2]):
            return []  # too thin: shrunk to the smaller input, its short side would be nothing
        boxes, landmarks = detector.detect(np.ascontiguousarray(image[:, :, ::-1]))
        if landmarks is None:
            raise FaceModelError(f"The detector in {name} finds no landmarks: use an SCRFD model with keypoints (kps).")
        found = [
            Detection(box[:4].astype(np.float32), kps.astype(np.float32), float(box[4]))
            for box, kps in zip(boxes, landmarks, strict=True)
        ]
        return sorted(found, key=lambda face: (-face.score, *face.box.tolist()))

    def embed(crops: np.ndarray) -> np.ndarray:
        return unit_rows(recognizer.get_feat([np.ascontiguousarray(crop[:, :, ::-1]) for crop in crops]))

    return FaceModels(
        spec=f"insightface:{folder.resolve() if folder.is_dir() else pack}",
        detect=detect,
        embed=embed,
        template=ARCFACE_112,
        size=size,
        dim=int(recognizer.output_shape[-1]),
        min_score=MIN_SCORE,
        same_person=SAME_PERSON,
        files=(
            ModelFile("detector", Path(detector.model_file), LICENCE),
            ModelFile("recognizer", Path(recognizer.model_file), LICENCE),
        ),
        recognizer_onnx=Path(recognizer.model_file),
        mean=float(recognizer.input_mean),
        std=float(recognizer.input_std),
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
