"""Reads pickled checkpoints of other authors without running code in them, and loads their tensors into a module."""

from __future__ import annotations

import argparse
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from manifests.errors import BadInput

_FORBIDDEN = re.compile(r"GLOBAL ([\w.]+)")  # How torch.load's message names a forbidden class.
_MOST_NAMES = 3  # A message names at most this number of tensors.
_REAL = {
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
    *(torch.float8_e4m3fn, torch.float8_e5m2, torch.float16, torch.bfloat16, torch.float32, torch.float64),
}


def read_pickled(file: Path, source: str) -> dict[str, Any]:
    """Returns the dict that torch.save wrote into a file.

    torch.load reads the file with weights_only=True, so the file may contain only tensors and plain Python values. The
    class argparse.Namespace is allowed too, because some trainers save their options as a Namespace. `source` names
    the right file in the message. Raises BadInput if the file is missing or broken, or names another class or function.
    """
    if not file.is_file():
        raise BadInput(f"{file} does not exist: put {source} there.")
    try:
        # With mmap, tensors that are never used, for example the state of an optimizer, are not read from the disk.
        # torch needs a zip archive for this.
        with torch.serialization.safe_globals([argparse.Namespace]):
            read = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except Exception as error:  # a broken or hostile file can raise any error
        if match := _FORBIDDEN.search(str(error)):
            raise BadInput(
                f"{file} names {match[1]}, and Likeness reads only tensors and plain values, because other classes "
                f"can run code: take {source}."
            ) from error
        why = " ".join(str(error).split())[:200] or type(error).__name__
        raise BadInput(f"{file} is not a readable file of torch.save ({why}): take {source}.") from error
    if not isinstance(read, Mapping):
        raise BadInput(f"{file} contains no dict of tensors: take {source}.")
    return {str(name): value for name, value in read.items()}


def load_tensors(
    module: nn.Module, tensors: Mapping[str, Any], file: Path, source: str, optional: Sequence[str] = ()
) -> None:
    """Loads the tensors of a file into a module, in place.

    Tensors whose names end with a text of `optional` may be missing. `source` names the right file in the message.
    Raises BadInput if the file lacks other tensors or has unknown tensors. Raises BadInput also if a tensor is not a
    dense array of real numbers on the CPU, has another shape, or contains NaN or infinity after the conversion to the
    module's number type.
    """
    own = module.state_dict()
    missing = [name for name in own if name not in tensors and not name.endswith(tuple(optional))]
    unknown = [name for name in tensors if name not in own]
    for names, what in ((missing, "lacks"), (unknown, "has unknown tensors:")):
        if names:
            raise BadInput(f"{file} {what} {_list(names)}: take {source}.")
    if wrong := [name for name, value in tensors.items() if not isinstance(value, torch.Tensor)]:
        raise BadInput(f"{file} has values that are not tensors: {_list(wrong)}: take {source}.")
    if wrong := [name for name, tensor in tensors.items() if not _is_dense_and_real(tensor)]:
        raise BadInput(f"{file} has tensors that are not dense arrays of real numbers: {_list(wrong)}: take {source}.")
    shapes = [
        f"{name} {tuple(tensor.shape)} instead of {tuple(own[name].shape)}"
        for name, tensor in tensors.items()
        if tensor.shape != own[name].shape
    ]
    if shapes:
        raise BadInput(f"{file} has tensors with another shape: {_list(shapes)}: take {source}.")
    if wrong := [name for name, tensor in tensors.items() if not _is_finite(tensor, own[name].dtype)]:
        raise BadInput(f"{file} has tensors with NaN or infinity: {_list(wrong)}: take {source}.")
    module.load_state_dict(dict(tensors), strict=False)


def _is_dense_and_real(tensor: torch.Tensor) -> bool:
    """Returns whether a tensor is on the CPU, and is not sparse, nested, quantized or complex."""
    dense = tensor.layout == torch.strided and not tensor.is_nested
    return dense and tensor.device.type == "cpu" and tensor.dtype in _REAL


def _is_finite(tensor: torch.Tensor, dtype: torch.dtype) -> bool:
    """Returns whether all values are finite as `dtype`. For example, 1e300 is infinite in float32."""
    return bool(torch.isfinite(tensor.to(dtype if dtype.is_floating_point else torch.float64)).all())


def _list(names: Sequence[str]) -> str:
    others = len(names) - _MOST_NAMES
    return ", ".join(names[:_MOST_NAMES]) + (f" and {others} more" if others > 0 else "")
