"""The errors of `curate.faces`. The package imports no other package, so its errors do not derive from LikenessError.

The command line prints an error of `curate.faces` like a LikenessError, and exits with the exit code of the error's
class. `is_out_of_memory` recognizes errors of other libraries.
"""

from __future__ import annotations


class FaceModelError(Exception):
    """A face model is missing, broken or unsuitable.

    The text of the error says in one sentence what the user can do.
    """

    exit_code = 1


class NoSuchDevice(FaceModelError):
    """The value of --device names no device on which the installed onnxruntime can run networks."""

    exit_code = 2


class NoSuchModels(FaceModelError):
    """The value of --faces does not name any face models."""

    exit_code = 2


# Parts of the messages with which onnxruntime, torch, CUDA, cuBLAS, cuDNN and DirectML report that the memory is too
# small.
_OUT_OF_MEMORY = (
    "out of memory",
    "not enough memory",
    "failed to allocate",
    "allocate memory",
    "bad_alloc",
    "bad alloc",
    "alloc_failed",
    "8007000e",
)


def is_out_of_memory(error: Exception) -> bool:
    """Returns whether an error of a network says that the memory is too small."""
    return isinstance(error, MemoryError) or any(text in str(error).lower() for text in _OUT_OF_MEMORY)
