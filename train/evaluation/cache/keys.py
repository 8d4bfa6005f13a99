"""Hashes everything on which a restored image or a measured value depends."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from curate.faces.interface import FaceModels
from manifests.runtime.files import sha256_file
from manifests.runtime.versions import find_version

if TYPE_CHECKING:
    from train.models.restorer import Restorer

# A new version of one of these packages can change a figure.
_PACKAGES = (
    "diffusers", "dlib-bin", "insightface", "numpy", "onnx2torch", "onnxruntime", "onnxruntime-directml",
    "onnxruntime-gpu", "opencv-python", "opencv-python-headless", "peft", "pillow", "pyiqa", "scipy", "timm", "torch",
    "torch-fidelity", "torchmetrics", "torchvision", "transformers",
)  # fmt: skip
# The number (ours) of arrays whose hashes are remembered. An image has up to 20 arrays, and images share many arrays.
_REMEMBERED = 4096
# The folders with the code that restores and measures.
_CODE = ("curate/faces", "degrade", "manifests", "train")


def hash_inputs(*inputs: str | np.ndarray | None) -> str:
    """Returns the sha256 of texts and arrays, as hex. The order of the inputs and the types of the arrays matter."""
    digest = hashlib.sha256()
    for value in inputs:
        if isinstance(value, np.ndarray):
            digest.update(f"array {value.dtype.str} {value.shape} ".encode())
            digest.update(np.ascontiguousarray(value).data)
        else:
            data = repr(value).encode()
            digest.update(f"text {len(data)} ".encode() + data)
    return digest.hexdigest()


class ArrayHashes:
    """Computes the hashes of arrays, and remembers the hashes of the last read-only arrays. All systems of an image
    share its target and its references, so most arrays are hashed once. The key of a remembered hash is the `id` of the
    array.
    """

    def __init__(self) -> None:
        self._known: OrderedDict[int, tuple[np.ndarray, str]] = OrderedDict()  # id -> the array and its hash

    def find(self, array: np.ndarray | None) -> str | None:
        """Returns the hash of an array, or None for None."""
        if array is None or array.flags.writeable:
            return None if array is None else hash_inputs(array)
        if id(array) not in self._known:
            self._known[id(array)] = array, hash_inputs(array)
            if len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        return self._known[id(array)][1]


def hash_environment() -> str:
    """Returns the sha256 of Likeness' code, of the versions of its packages, of the device and of the thread count.

    The device is the name of the GPU. Without a GPU, the device is the set of vector instructions of the CPU. The
    number of threads can change the last bits of a sum.
    """
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else torch.backends.cpu.get_cpu_capability()
    versions = [f"{name} {find_version(name)}" for name in _PACKAGES]
    return hash_inputs(_hash_code(), *versions, device, str(torch.get_num_threads()))


@cache
def _hash_code() -> str:
    root, digest = Path(__file__).parents[3], hashlib.sha256()
    for path in sorted(path for folder in _CODE for path in (root / folder).rglob("*.py")):
        digest.update(f"{path.relative_to(root)} ".encode() + path.read_bytes())
    return digest.hexdigest()


def hash_restorer(model: Restorer) -> str:
    """Returns the sha256 of the architecture, the facts and all tensors of a restorer.

    The hash also depends on the frozen tensors, and on the number type of each tensor.
    """
    facts = json.dumps([asdict(model.config), model.facts, model.base_sha256], sort_keys=True, default=str)
    digest = hashlib.sha256(facts.encode())
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def hash_files(paths: Iterable[Path]) -> str:
    """Returns the sha256 of the bytes of files, in this order."""
    return hash_inputs(*map(sha256_file, paths))


def hash_faces(models: FaceModels) -> str:
    """Returns the sha256 of the files of face models, of their settings, such as the thresholds, and of the device that
    embeds.

    The hash does not depend on the folder of the files.
    """
    numbers = (models.size, models.dim, models.min_score, models.same_person, models.mean, models.std)
    files = (f"{file.role} {file.sha256}" for file in models.files)
    return hash_inputs(np.asarray(models.template, np.float64), np.array(numbers, np.float64), models.device, *files)
