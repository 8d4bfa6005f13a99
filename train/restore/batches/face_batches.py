"""Restores many faces in batches, with smaller batches if the memory is too small."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from curate.faces.errors import is_out_of_memory
from manifests.errors import BadInput
from train.restore.references.reference_photos import References
from train.restore.restorers.face_restorer import FaceRestorer


class FaceInput(NamedTuple):
    """Holds what the network needs to restore one face."""

    crop: np.ndarray  # uint8 (S, S, 3)
    references: References


class NotFinite(BadInput):
    """A restored face contains NaN or infinity."""


class FaceBatches:
    """Restores faces in batches of `size` faces. If the memory is too small, `size` is halved for this and all later
    batches."""

    def __init__(self, restorer: FaceRestorer, size: int) -> None:
        self.restorer, self.size, self._first_size = restorer, size, size

    def restore(self, faces: Sequence[FaceInput]) -> list[np.ndarray | Exception]:
        """Returns the restored crop of each face, float32 (S, S, 3) in 0..255, not rounded.

        If a face cannot be restored, the list has an error instead of its crop. The other faces are restored.
        """
        restored: list[np.ndarray | Exception] = []
        while len(restored) < len(faces):
            restored += self._restore_batch(faces[len(restored) : len(restored) + self.size])
        return restored

    def describe_halving(self, say: Callable[[str], None]) -> None:
        """If the size was halved, `say` gets a sentence with the new size."""
        if self.size < self._first_size:
            say(
                f"The memory was too small to restore {self._first_size} faces at once, so the command restored "
                f"{self.size} at once: give --batch {self.size}."
            )

    def _restore_batch(self, faces: Sequence[FaceInput]) -> list[np.ndarray | Exception]:
        try:
            images = self.restorer.restore_crops([face.crop for face in faces], [face.references for face in faces])
        except Exception as caught:  # A network can raise many kinds of errors.
            # Remove the traceback before the next batch, because it keeps the tensors of the failed batch in memory.
            error, out_of_memory = caught.with_traceback(None), is_out_of_memory(caught)
        else:
            not_finite = NotFinite("the restored face contains NaN or infinity")
            return [image if np.isfinite(image).all() else not_finite for image in images]
        if len(faces) == 1:
            return [BadInput("the memory is too small to restore one face") if out_of_memory else error]
        if not out_of_memory:  # restore the faces one by one, so that only the face that causes the error fails
            return [one for face in faces for one in self._restore_batch([face])]
        while self.size >= len(faces):
            self.size //= 2
        return self.restore(faces)


def raise_errors(restored: Sequence[np.ndarray | Exception]) -> list[np.ndarray]:
    """Returns the items of `restored`, or raises the first item that is an error."""
    faces = []
    for one in restored:
        if isinstance(one, Exception):
            raise one
        faces.append(one)
    return faces
