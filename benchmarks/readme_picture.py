"""Makes the picture of the README: a degraded photo, two references, the restored photo and the original.

    python benchmarks/readme_picture.py RUN --out docs/astronaut.png

All five images come from the portrait of the astronaut Eileen Collins (NASA, public domain) in scikit-image, through
the variations of `likeness demo`. The references are other variations of the same portrait, so they help more than
other photos of a person would.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import cv2
import numpy as np
import torch
from record_result import record_result

from curate.demo import SITTERS, write_demo_photos
from curate.faces.align import FFHQ_512, FFHQ_SIZE, align_face, crop_for_recognizer, find_valid_pixels
from degrade.operations.apply import apply
from degrade.operations.pixels import shrink, to_float, to_uint8
from degrade.presets import find_preset
from degrade.sampling import make_generator, sample_theta
from manifests.pictures.images import decode
from train.data.tensors import to_image, to_tensor
from train.metrics.psnr_ssim import psnr
from train.models.restorer import Restorer
from train.recipes.recipes import find_recipe
from train.restore.load_restorer import load_restorer_faces, run_model
from train.restore.references.reference_photos import References

PANEL = 224  # the side of each of the five images, in pixels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a training run of the recipe tiny")
    parser.add_argument("--out", type=Path, default=Path("docs/astronaut.png"))
    parser.add_argument("--faces", help="the folder of the recognizer's files, if the folder has moved")
    parser.add_argument("--seed", type=int, default=0, help="seed of the variations and of the degradation")
    options = parser.parse_args()
    model = Restorer.from_pretrained(options.run)
    models = load_restorer_faces(model, options.faces)
    size, preset = model.config.size, find_preset(find_recipe(model.facts["recipe"], model.config.base).preset)
    sitter = next(one for one in SITTERS if one.file.endswith("astronaut.png"))
    crops: list[np.ndarray] = []
    valid = np.ones((size, size), bool)
    with tempfile.TemporaryDirectory() as scratch:
        write_demo_photos(Path(scratch), make_generator("astronaut", options.seed))
        for path in sorted(Path(scratch).glob(f"{sitter.name}-*.jpg")):
            photo = decode(path)
            if faces := models.detect(photo):
                if not crops:  # the first photo is the target
                    valid = find_valid_pixels(faces[0].landmarks5, photo.shape[1], photo.shape[0], size)
                crops.append(align_face(photo, faces[0].landmarks5, FFHQ_512, FFHQ_SIZE))
    target, *references = (shrink(crop, size) for crop in crops[:3])
    chips = np.stack([crop_for_recognizer(crop, models.template, models.size) for crop in crops[:3]])
    vectors = models.embed(chips)
    shown = References(torch.stack([to_tensor(crop) for crop in references]), torch.from_numpy(vectors[1:]))
    lq = to_uint8(apply(to_float(target), sample_theta(preset, options.seed, "astronaut")))
    restored = to_image(run_model(model, to_tensor(lq)[None], shown)[0])
    panels = [
        cv2.resize(one, (PANEL, PANEL), interpolation=cv2.INTER_CUBIC) for one in (lq, *references, restored, target)
    ]
    sheet = np.concatenate([np.pad(one, ((0, 0), (0, 6), (0, 0)), constant_values=255) for one in panels], 1)[:, :-6]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(options.out), cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))
    before, after = (
        crop_for_recognizer(np.where(valid[:, :, None], one, target), models.template, models.size)
        for one in (lq, restored)
    )
    cosines = models.embed(np.stack([before, after])) @ vectors[0]
    mask = torch.from_numpy(valid)[None, None]
    scores = [psnr(to_tensor(one)[None], to_tensor(target)[None], mask)[0] for one in (lq, restored)]
    result = {
        name: {"psnr": round(score, 2), "id_target": round(float(cosine), 3)}
        for name, score, cosine in zip(("lq", "restored"), scores, cosines, strict=True)
    }
    record_result("readme_picture", {"picture": str(options.out), **result}, keep=False)


if __name__ == "__main__":
    main()
