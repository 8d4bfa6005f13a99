"""Writes the log of a run: stats.jsonl, TensorBoard scalars, and the pictures samples/<images>.png."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter

from manifests.errors import LikenessError
from manifests.pictures.png_files import encode_png
from manifests.runtime.files import write_atomically
from manifests.runtime.json_log import log
from train.run_folders import SAMPLES

STATS = "stats.jsonl"
_BAR = 20  # height of the heading in pixels


class Logbook:
    """Writes the figures of one run. A resumed run first removes the lines that are newer than its checkpoint.

    A line of stats.jsonl has the keys `kind`, `images` and `seconds`, and a key for each value. `kind` is "train" or
    "val". `images` is the number of images seen. `seconds` is the time since the start of the command that wrote the
    line. Raises LikenessError if a file cannot be written, for example on a full disk.
    """

    def __init__(self, run: Path, images: int) -> None:
        self.run = run
        path = run / STATS
        with _writing(run):
            if path.is_file():
                lines = path.read_text(encoding="utf-8").splitlines()
                old_lines = [line for line in lines if images and _read_images(line) <= images]
                write_atomically(path, "".join(f"{line}\n" for line in old_lines).encode())
            self._file = path.open("a", encoding="utf-8")
            self._board = SummaryWriter(str(run), purge_step=images + 1 if images else 0)

    def __enter__(self) -> Logbook:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        # If an error ended the run, the user must see that error. A second error while the log closes is ignored.
        with suppress(Exception) if value is not None else _writing(self.run):
            try:
                self._file.close()
            finally:
                self._board.close()

    def write(self, kind: str, images: int, seconds: float, values: dict[str, float]) -> None:
        """Writes one line of stats.jsonl, and one TensorBoard scalar for each value."""
        line: dict[str, Any] = {"kind": kind, "images": images, "seconds": round(seconds, 2)}
        line |= {name: float(f"{value:.6g}") for name, value in values.items()}
        with _writing(self.run):
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
            log("stats", run=str(self.run), **line)
            for name, value in values.items():
                self._board.add_scalar(f"{kind}/{name}", value, images)

    def grid(
        self, images: int, lq: torch.Tensor, references: torch.Tensor, restored: torch.Tensor, target: torch.Tensor
    ) -> Path:
        """Writes samples/<images>.png and returns its path. A row shows LQ | references | restored | target.

        `references` has shape (B,K,3,S,S), and the other tensors have shape (B,3,S,S). All values are in 0..1.
        """
        rows = torch.cat([lq[:, None], references, restored[:, None], target[:, None]], 1)
        pixels = (rows.clamp(0, 1) * 255).round().byte().permute(0, 3, 1, 4, 2).cpu().numpy()
        b, size, columns = pixels.shape[:3]
        sheet = np.concatenate([np.full((_BAR, columns * size, 3), 255, np.uint8), pixels.reshape(b * size, -1, 3)])
        headings = ["input", *["reference"] * references.shape[1], "restored", "target"]
        for column, heading in enumerate(headings):
            cv2.putText(
                sheet, heading, (column * size + 4, _BAR - 6), cv2.FONT_HERSHEY_SIMPLEX, 0.4, (0, 0, 0), 1, cv2.LINE_AA
            )
        path = self.run / SAMPLES / f"{images:08d}.png"
        with _writing(self.run):
            write_atomically(path, encode_png(sheet))
        return path


@contextmanager
def _writing(run: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise LikenessError(
            f"The log in {run} cannot be written ({error.strerror or error}): the last complete checkpoint stays. "
            "Solve the problem, for example free disk space, and run the same command again."
        ) from error


def _read_images(line: str) -> float:
    try:
        return float(json.loads(line)["images"])
    except (ValueError, KeyError, TypeError):
        return float("inf")  # a killed run can leave half a line; the value infinity makes the caller remove this line
