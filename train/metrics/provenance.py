"""Describes how the values of a metric were computed: the libraries, and the files of weights with their licences."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from curate.faces.interface import FaceModels
from manifests.runtime.files import sha256_file
from manifests.runtime.versions import code_version, find_version
from train.metrics.measure import find_weights, reads_judge
from train.metrics.registry import DLIB, METRICS

LIKENESS = "likeness"
NOT_KNOWN = "not known"

# Maps a metric to the packages that compute it. Likeness itself computes the metrics that are not listed.
_PACKAGES = {
    **dict.fromkeys(("psnr", "ssim", "psnr_y", "ssim_y", "ms_ssim", "vif"), ("torchmetrics",)),
    **dict.fromkeys(("lpips", "lpips_alex", "dists"), ("torch", "torchmetrics")),
    **dict.fromkeys(("fid", "fid_folder", "fid_statistics"), ("torch-fidelity",)),
    **dict.fromkeys(("niqe", "musiq", "maniqa", "clipiqa", "qalign"), ("pyiqa",)),
    **dict.fromkeys(("deg_published",), ("torch",)),
    **dict.fromkeys(("deg_adaface", "id_input_adaface", "lmd_awing"), ("torch", "onnx2torch")),
    **{name: ("dlib-bin",) for name, metric in METRICS.items() if metric.requirement == DLIB},
}

# Maps the first letters of a file's name to the first digits of the published file's sha256 ("" if we do not know
# them), and to the licence.
_PUBLISHED = {
    "vgg16-": ("397923af", "BSD-3-Clause (torchvision)"),
    "alexnet-owt-": ("7be5be79", "BSD-3-Clause (torchvision)"),
    "pt_inception-": ("6726825d", "Apache-2.0 (TensorFlow's models)"),
    "weights-inception-": ("6726825d", "Apache-2.0 (TensorFlow's models)"),
    "niqe_modelparameters": ("", NOT_KNOWN),
    "musiq_koniq_ckpt-": ("e95806b9", "Apache-2.0 (google-research/musiq)"),
    "ckpt_koniq10k": ("", "Apache-2.0 (IIGROUP/MANIQA)"),
    "RN50": ("afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762", "MIT (openai/CLIP)"),
    "adaface_ir50_ms1mv2": ("", "MIT (mk-minchul/AdaFace)"),
    "alignment_WFLW_4HG": ("", "MIT (xinntao/facexlib)"),
    "resnet18_110": ("", NOT_KNOWN),
    "shape_predictor_68_face_landmarks": ("", "not for commercial use (the photos of iBUG 300-W)"),
}


def describe_provenance(name: str, weights: Path | None, judge: FaceModels | None) -> dict[str, Any]:
    """Returns the libraries of a metric with their versions, and its files of weights.

    The key `libraries` maps each package to its version, or to None if the package is not installed. The key `weights`
    lists the files, each with its name, its sha256, its licence, and `is_published`. `is_published` says whether the
    file has the sha256 of the published file. `is_published` is None if we do not know that sha256. If the metric reads
    the judge, the list also has the judge's files.
    """
    packages = {package: find_version(package) for package in _PACKAGES.get(name, ())}
    files = [_describe_file(path) for path in find_weights(name, weights)]
    if judge is not None and reads_judge(name):
        files += [
            {"file": file.path.name, "sha256": _hash_file(file.path), "licence": file.licence, "is_published": None}
            for file in judge.files
        ]
    return {"libraries": {LIKENESS: code_version()} | packages, "weights": files}


def _describe_file(path: Path) -> dict[str, Any]:
    sha256 = _hash_file(path)
    start, licence = next(
        (known for prefix, known in _PUBLISHED.items() if path.name.startswith(prefix)), ("", NOT_KNOWN)
    )
    is_published = sha256.startswith(start) if start else None
    return {"file": path.name, "sha256": sha256, "licence": licence, "is_published": is_published}


def _hash_file(path: Path) -> str:
    facts = path.stat()
    return _hash_once(path, facts.st_mtime_ns, facts.st_size)


@cache  # several metrics can read the same file, which can have hundreds of megabytes
def _hash_once(path: Path, _time: int, _size: int) -> str:
    return sha256_file(path)
