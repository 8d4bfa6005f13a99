"""Tests that pixels outside the photo are left out when an image is measured or shown."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from train.evaluation.sets.cases import Case
from train.evaluation.systems.restored_folders import match_files
from train.evaluation.systems.rows import measure_input


def test_an_image_is_kept_with_the_pixels_of_the_target_outside_the_photo() -> None:
    valid = np.zeros((32, 32), bool)
    valid[8:] = True
    lq, target = np.full((32, 32, 3), 10, np.uint8), np.full((32, 32, 3), 200, np.uint8)
    case = Case("face", "person", lq, target, (), np.zeros((0, 4), np.float32), valid=valid)
    images: list[np.ndarray] = []
    masks: list[Any] = []

    def measure(*inputs: Any, lq: np.ndarray | None) -> dict[str, float]:
        masks.append(inputs[-1])
        assert lq is None  # no metric compares the LQ image with itself
        return {"psnr": 1.0}

    row = measure_input(case, measure, ["psnr"], lambda _, image: images.append(image))
    assert row["psnr"] == 1 and masks[0] is valid
    assert (images[0][:8] == 200).all() and (images[0][8:] == 10).all()


def test_the_file_of_an_image_without_references_is_not_measured_and_is_no_stranger(tmp_path: Path) -> None:
    lq = np.zeros((8, 8, 3), np.uint8)
    for name in ("measured", "alone_restored", "somebody"):
        Image.fromarray(lq).save(tmp_path / f"{name}.png")
    case = Case("measured", "person", lq, lq, (), np.zeros((0, 4), np.float32))
    files, unmatched = match_files(tmp_path, [case], ["alone"])
    assert files == {"measured": tmp_path / "measured.png"} and unmatched == ["somebody.png"]
