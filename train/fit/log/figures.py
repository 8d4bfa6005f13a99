"""Keeps the figures of training steps on the device, reads many steps at once, and checks for NaN and infinity.

The figures of a step are its losses and gradient norms. Reading a loss makes the CPU wait until the device has finished
the step. So the loop reads figures only before it writes a line of the log or a checkpoint. Until then, this file keeps
the figures of each step, and remembers which faces the step used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from manifests.errors import LikenessError
from train.fit.distributed import gather_lists, run_on_first


class Diverged(LikenessError):
    """Reports that a loss, a gradient norm or a value of a restored face is NaN or infinite."""


@dataclass(frozen=True)
class _UnreadStep:
    images: int  # Number of images seen before the step.
    values: torch.Tensor  # (n,) float32 on the device, one value per figure.
    # The row numbers of the targets in the snapshot: a CPU tensor for each part of the batch.
    rows: Sequence[torch.Tensor]


class UnreadFigures:
    """Holds the figures of the steps since the last read.

    `reduce` averages a tensor over all processes. `face_ids` has the face id of each row of the snapshot. `batch` is
    the number of images per step.
    """

    def __init__(self, reduce: Callable[[torch.Tensor], torch.Tensor], face_ids: Sequence[str], batch: int) -> None:
        self._reduce, self._face_ids, self._batch = reduce, face_ids, batch
        self._names: list[str] = []
        self._steps: list[_UnreadStep] = []

    def add(self, images: int, figures: dict[str, torch.Tensor], rows: Sequence[torch.Tensor]) -> None:
        """Keeps the figures of a step without waiting for the device.

        `images` is the number of images seen before the step. `rows` are the rows of the step's targets in the
        snapshot.
        """
        self._names = list(figures)
        self._steps.append(_UnreadStep(images, torch.stack([value.float() for value in figures.values()]), rows))

    def read(self) -> list[dict[str, float]]:
        """Waits for the device. Returns the figures of every unread step, oldest first, averaged over all processes.

        Raises Diverged if a figure is NaN or infinite. The message names the first step with such a figure, and the
        faces in that step.
        """
        if not self._steps:
            return []
        steps, self._steps = self._steps, []
        table = self._reduce(torch.stack([step.values for step in steps])).tolist()
        figures = [dict(zip(self._names, values, strict=True)) for values in table]
        for step, values in zip(steps, figures, strict=True):
            # The figure "loss" is not checked: it is a weighted sum of other figures, which are checked.
            broken = [name for name, value in values.items() if name != "loss" and not math.isfinite(value)]
            if broken:
                self._stop(step, broken)
        return figures

    def _stop(self, step: _UnreadStep, broken: list[str]) -> None:
        faces = gather_lists([self._face_ids[row] for rows in step.rows for row in rows.tolist()])

        def raise_diverged() -> None:
            number = step.images // self._batch + 1
            raise Diverged(
                f"Training stopped: {', '.join(broken)} became NaN or infinite in step {number} (after {step.images} "
                f"images; faces {', '.join(face[:12] for face in faces)}). The newest checkpoint was saved before this "
                "step. Start a new run with another --out and --precision fp32, or with another recipe or seed."
            )

        run_on_first(raise_diverged)
