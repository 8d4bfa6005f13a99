"""Makes a dataset with soft targets, and a restorer that sharpens them.

If this file is started as a script, it iterates the small recipe on one thread, and a test can kill the process:
`python tests/doubles/iteration.py DATASET RECOGNIZER OUT ROUNDS`.
"""

import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch

import train.iterate.clean
from manifests.ledger.ledger import Ledger
from manifests.ledger.records import Face
from tests.doubles.training import SMALL, dataset, models_of, recognizer_onnx
from train.iterate.acceptance import Bounds
from train.iterate.iterate import IterationOptions, IterationSummary, iterate

SOFT = 0.1
# The limits of a cleaned version are wide, because the pictures of the doubles are not faces. The tests check only that
# Likeness uses the limits.
BOUNDS = Bounds(clean_noise=50.0, clean_blockiness=50.0, change=200.0)
OPTIONS = IterationOptions(SMALL, 8, bounds=BOUNDS)


def soft_dataset(folder: Path, people: int = 4, photos: int = 4) -> tuple[Path, Path]:
    """Makes a dataset in which every second target is soft. Returns the dataset and the file of its recognizer."""
    recognizer = recognizer_onnx(folder / "recognizer.onnx")
    made = dataset(folder / "dataset", recognizer, people, photos)
    with Ledger.open(made, write=True) as ledger:
        faces = ledger.read_rows(Face)
        changed = [replace(face, sharpness=SOFT) for face in faces if int(face.face_id[2:4]) % 2 == 0]
        ledger.record("soft", "all", {}, changed)
    return made, recognizer


def sharpened(model: object, lq: torch.Tensor, references: object) -> torch.Tensor:
    """Acts as a restorer: returns the input (1, 3, S, S) with more detail."""
    image = lq[0].permute(1, 2, 0).numpy()
    rng = np.random.default_rng(int(image.sum() * 1000) % 2**31)
    detail = cv2.resize(rng.normal(0, 0.2, (16, 16, 3)).astype(np.float32), image.shape[:2])
    return torch.from_numpy(np.clip(image + detail, 0, 1)).permute(2, 0, 1)[None].float()


def run(  # type: ignore[no-untyped-def]
    made: Path, recognizer: Path, out: Path, rounds: int = 1, options: IterationOptions = OPTIONS, **others
) -> IterationSummary:
    torch.set_num_threads(1)
    usual = {"workers": 0, "say": lambda _: None, "models": models_of(recognizer)}
    return iterate(made, out, options, rounds, **{**usual, **others})


def main() -> None:
    made, recognizer, out, rounds = sys.argv[1:]
    train.iterate.clean.run_model = sharpened  # type: ignore[assignment]
    train.iterate.clean.BATCH = 2
    run(Path(made), Path(recognizer), Path(out), int(rounds))


if __name__ == "__main__":
    main()


RED = np.full((32, 32, 3), (255, 0, 0), np.uint8)  # a picture that is unlike every crop
