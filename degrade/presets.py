"""What the literature degrades with, one line a preset, and the draw from a preset to a θ."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass

import numpy as np

from degrade.operations import VERSION, Step, Theta
from manifests.errors import BadInput
from manifests.storage import MAX_SEED

Range = tuple[float, float]


@dataclass(frozen=True)
class Preset:
    """Ranges to draw a θ from; every draw is uniform; None leaves the step out.

    Lengths are pixels of the picture given: the published presets were made for 512 px faces and degrade a smaller
    face more.
    """

    name: str
    blur: Range | None  # sigma, pixels
    down: Range  # factor; below 1 enlarges
    noise: Range | None  # sigma, in 1/255
    jpeg: Range | None  # quality; the draw is truncated to a whole number, so the upper end itself never comes up
    resize: str  # interpolation down and up
    shift: Range = (0, 0)  # (probability, largest shift of a channel in 1/255)
    jitter: float = 0  # probability of brightness, contrast, saturation and hue, in random order
    gray: float = 0  # probability
    iso: float = 0.5  # probability of an isotropic kernel; otherwise anisotropic, each sigma drawn, any angle
    kernel: int = 41  # pixels
    save: bool = False  # rounded to 8 bits after downsampling, as a small picture that was saved

    def sample(self, rng: np.random.Generator) -> Theta:
        """Draw a θ: plain JSON, complete, replayed by `operations.apply`."""
        steps: list[Step] = []
        if self.blur is not None:
            kind = "iso" if rng.uniform() < self.iso else "aniso"
            sigma_x, sigma_y = rng.uniform(*self.blur), rng.uniform(*self.blur)
            angle = rng.uniform(-math.pi, math.pi)
            if kind == "iso":
                sigma_y, angle = sigma_x, 0.0
            blur = {"kernel": kind, "size": self.kernel, "sigma_x": sigma_x, "sigma_y": sigma_y, "angle": angle}
            steps.append({"op": "blur", **blur})
        steps.append({"op": "downsample", "factor": rng.uniform(*self.down), "interpolation": self.resize})
        if self.save:
            steps.append({"op": "quantise"})
        if self.noise is not None:
            sigma = rng.uniform(*self.noise)
            steps.append({"op": "noise", "sigma": sigma, "gray": False, "seed": int(rng.integers(2**53))})
        if self.jpeg is not None:
            steps.append({"op": "jpeg", "quality": int(rng.uniform(*self.jpeg))})
        steps.append({"op": "upsample", "interpolation": self.resize})
        steps += self._colour(rng)
        return {"version": VERSION, "preset": self.name, "steps": steps}

    def _colour(self, rng: np.random.Generator) -> list[Step]:
        steps: list[Step] = []
        probability, largest = self.shift
        if rng.uniform() < probability:
            red, green, blue = (float(x) for x in rng.uniform(-largest / 255, largest / 255, 3))
            steps.append({"op": "shift", "red": red, "green": green, "blue": blue})
        if rng.uniform() < self.gray:
            steps.append({"op": "gray"})
        if rng.uniform() < self.jitter:
            for index in rng.permutation(len(_JITTER)):
                name, (low, high) = _JITTER[index]
                steps.append({"op": name, "factor": rng.uniform(low, high)})
        return steps


# GFPGAN ffhq_degradation_dataset.py: the defaults of color_jitter_pt
_JITTER: tuple[tuple[str, Range], ...] = (
    ("brightness", (0.5, 1.5)),
    ("contrast", (0.5, 1.5)),
    ("saturation", (0.0, 1.5)),
    ("hue", (-0.1, 0.1)),
)

# gfpgan      GFPGAN options/train_gfpgan_v1.yml, every number: blur_sigma, downsample_range, noise_range, jpeg_range,
#             color_jitter_prob and _shift, color_jitter_pt_prob, gray_prob; kernel_prob .5/.5, blur_kernel_size 41.
#             gt_gray is not set there: the target keeps its colours.
# codeformer  CodeFormer options/CodeFormer_stage3.yml, the small degradation of stage III; no colour there.
# bicubic-x8  ReFine, "x8 SR task = bicubic". Ours: MATLAB's imresize, saving between at 8 bits, bicubic up again.
# fmt: off
_TABLE = (
    #      name          blur sigma  down      noise    JPEG       resize      shift            jitter      gray
    Preset("gfpgan",     (0.1, 10),  (0.8, 8), (0, 20), (60, 100), "bilinear", shift=(0.3, 20), jitter=0.3, gray=0.01),
    Preset("codeformer", (0.1, 10),  (1, 12),  (0, 15), (60, 100), "bilinear"),
    Preset("bicubic-x8", None,       (8, 8),   None,    None,      "imresize", save=True),
)
# fmt: on

PRESETS: dict[str, Preset] = {preset.name: preset for preset in _TABLE}


def find_preset(name: str) -> Preset:
    """The preset of that name. Raises BadInput, which lists the presets there are."""
    if name not in PRESETS:
        raise BadInput(f"There is no preset {name}; the presets are {', '.join(PRESETS)}.")
    return PRESETS[name]


def seeded(*key: int | str) -> np.random.Generator:
    """A generator that depends on the key alone: the same on every machine, for any worker, in any order."""
    digest = hashlib.sha256(json.dumps(key).encode()).digest()
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(int.from_bytes(digest, "big"))))


def check_seed(seed: int) -> None:
    """Raise BadInput for a seed that the ledger cannot keep."""
    if not 0 <= seed <= MAX_SEED:
        raise BadInput(f"--seed is {seed}; it must be at least 0 and at most {MAX_SEED}.")


def draw(preset: Preset, seed: int, key: str) -> Theta:
    """The θ of one face (or file) in a frozen set: keyed by (seed, "degrade", preset, key) and by nothing else."""
    return preset.sample(seeded(seed, "degrade", preset.name, key))
