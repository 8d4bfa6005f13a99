"""Makes the picture of the README: a degraded photo, two references, the restored photo and the original.

    python benchmarks/readme_picture.py RUN --out docs/astronaut.png

All five images are variations of one portrait (benchmarks/astronaut.py), so the references help more than other photos
of a person would.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
import torch
from astronaut import make_astronaut
from record_result import record_result

from curate.faces.align import crop_for_recognizer
from degrade.presets import find_preset
from train.data.tensors import to_tensor
from train.metrics.psnr_ssim import psnr
from train.models.restorer import Restorer
from train.recipes.recipes import find_recipe
from train.restore.restorers.face_restorer import load_restorer_faces

PANEL = 224  # the side of each of the five images, in pixels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a training run of the recipe tiny")
    parser.add_argument("--out", type=Path, default=Path("docs/astronaut.png"))
    parser.add_argument("--faces", help="the folder of the recognizer's files, if the folder has moved")
    parser.add_argument("--seed", type=int, default=0, help="seed of the variations and of the degradation")
    options = parser.parse_args()
    model = Restorer.from_pretrained(options.run)
    models = load_restorer_faces(model.facts, options.faces)
    size, preset = model.config.size, find_preset(find_recipe(model.facts["recipe"], model.config.base).preset)
    shown = make_astronaut(models, size, preset, options.seed)
    lq, target, valid, restored = shown.lq, shown.target, shown.valid, shown.restore(model)
    panels = [
        cv2.resize(one, (PANEL, PANEL), interpolation=cv2.INTER_CUBIC)
        for one in (lq, *shown.references, restored, target)
    ]
    sheet = np.concatenate([np.pad(one, ((0, 0), (0, 6), (0, 0)), constant_values=255) for one in panels], 1)[:, :-6]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(options.out), cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))
    before, after = (
        crop_for_recognizer(np.where(valid[:, :, None], one, target), models.template, models.size)
        for one in (lq, restored)
    )
    cosines = models.embed(np.stack([before, after])) @ shown.embeddings[0]
    mask = torch.from_numpy(valid)[None, None]
    scores = [psnr(to_tensor(one)[None], to_tensor(target)[None], mask)[0] for one in (lq, restored)]
    result = {
        name: {"psnr": round(score, 2), "id_target": round(float(cosine), 3)}
        for name, score, cosine in zip(("lq", "restored"), scores, cosines, strict=True)
    }
    record_result("readme_picture", {"picture": str(options.out), **result}, keep=False)


if __name__ == "__main__":
    main()
