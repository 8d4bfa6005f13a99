"""From ranges to a θ: what a preset is, and the order in which its numbers are drawn.

The order is part of every frozen set: the same generator must give the same steps for ever, so a number that a preset
does not use is not drawn, and new ones are drawn only by presets that ask for them.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass

import numpy as np

from degrade.theta import VERSION, Step, Theta
from manifests.errors import BadInput
from manifests.ledger.paths import MAX_SEED

Range = tuple[float, float]

# GFPGAN ffhq_degradation_dataset.py: the defaults of color_jitter_pt
_JITTER: tuple[tuple[str, Range], ...] = (
    ("brightness", (0.5, 1.5)),
    ("contrast", (0.5, 1.5)),
    ("saturation", (0.0, 1.5)),
    ("hue", (-0.1, 0.1)),
)


@dataclass(frozen=True)
class Preset:
    """Ranges to draw a θ from; every draw is uniform; None leaves the step out.

    Lengths are pixels of the picture given: the published presets were made for 512 px faces and degrade a smaller
    face more.
    """

    name: str
    blur: Range | None  # sigma, pixels
    down: Range | None  # factor; below 1 enlarges
    noise: Range | None  # sigma, in 1/255
    jpeg: Range | None  # quality; the draw is truncated to a whole number, so the upper end itself never comes up
    resize: str  # interpolation down and up
    shift: Range = (0, 0)  # (probability, largest shift of a channel in 1/255)
    jitter: float = 0  # probability of brightness, contrast, saturation and hue, in random order
    gray: float = 0  # probability
    iso: float = 0.5  # probability of an isotropic kernel; otherwise anisotropic, each sigma drawn, any angle
    kernel: int = 41  # pixels
    save: bool = False  # rounded to 8 bits after downsampling, as a small picture that was saved
    whole: bool = False  # the factor is a whole number, both ends included
    motion: Range = (0, 0)  # (probability of a motion kernel instead, its largest length in pixels)
    gray_noise: float = 0  # probability of one noise value for all three channels
    orders: SecondOrder | None = None  # a second-order chain instead of all above but `resize`

    def sample(self, rng: np.random.Generator) -> Theta:
        """Draw a θ: plain JSON, complete, replayed by `operations.apply`."""
        steps = self._steps(rng) if self.orders is None else self.orders.steps(rng)
        steps.append({"op": "upsample", "interpolation": self.resize})
        steps += self._colour(rng)
        return {"version": VERSION, "preset": self.name, "steps": steps}

    def _steps(self, rng: np.random.Generator) -> list[Step]:
        steps: list[Step] = []
        if self.blur is not None:
            steps.append({"op": "blur", **self._kernel(rng, self.blur)})
        if self.down is not None:
            low, high = self.down
            factor = float(rng.integers(int(low), int(high) + 1)) if self.whole else rng.uniform(low, high)
            steps.append({"op": "downsample", "factor": factor, "interpolation": self.resize})
        if self.save:
            steps.append({"op": "quantise"})
        if self.noise is not None:
            sigma = rng.uniform(*self.noise)
            gray = bool(rng.uniform() < self.gray_noise) if self.gray_noise else False
            steps.append({"op": "noise", "sigma": sigma, "gray": gray, "seed": int(rng.integers(2**53))})
        if self.jpeg is not None:
            steps.append({"op": "jpeg", "quality": int(rng.uniform(*self.jpeg))})
        return steps

    def _kernel(self, rng: np.random.Generator, sigma: Range) -> Step:
        probability, longest = self.motion
        if probability and rng.uniform() < probability:
            length, angle = rng.uniform(0, longest), rng.uniform(-math.pi, math.pi)
            return {"kernel": "motion", "size": self.kernel, "length": length, "angle": angle}
        kind = "iso" if rng.uniform() < self.iso else "aniso"
        sigma_x, sigma_y = rng.uniform(*sigma), rng.uniform(*sigma)
        angle = rng.uniform(-math.pi, math.pi)
        if kind == "iso":
            sigma_y, angle = sigma_x, 0.0
        return {"kernel": kind, "size": self.kernel, "sigma_x": sigma_x, "sigma_y": sigma_y, "angle": angle}

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


@dataclass(frozen=True)
class Order:
    """One of the two rounds of a second-order chain: blur, resize, noise; its JPEG is placed by `SecondOrder`."""

    blur: Range  # sigma, pixels
    size: tuple[int, int]  # side of the kernel, odd
    kernels: tuple[tuple[str, float], ...]  # name and its share
    betag: Range  # beta of generalised kernels; half of the draws lie below 1
    betap: Range  # beta of plateau kernels, likewise
    sinc: float  # probability of a sinc kernel instead
    blurred: float  # probability of any blur
    resize: tuple[float, float, float]  # probabilities of up, down, keep
    scale: Range  # of the resize: up draws from 1 to its upper end, down from its lower end to 1
    gaussian: float  # probability of Gaussian noise; otherwise Poisson
    noise: Range  # sigma, in 1/255
    poisson: Range  # scale
    gray_noise: float  # probability
    jpeg: Range  # quality, truncated

    def kernel_steps(self, rng: np.random.Generator) -> list[Step]:
        """The blur of this round, or none."""
        size = int(rng.integers(self.size[0] // 2, self.size[1] // 2 + 1)) * 2 + 1
        if rng.uniform() < self.sinc:
            # realesrgan_dataset.py: smaller kernels keep more, so that they do not ring
            cutoff = rng.uniform(math.pi / 3 if size < 13 else math.pi / 5, math.pi)
            blur: Step = {"kernel": "sinc", "size": size, "cutoff": cutoff}
        else:
            names, shares = zip(*self.kernels, strict=True)
            kind = str(rng.choice(names, p=np.array(shares) / sum(shares)))
            sigma_x, sigma_y = rng.uniform(*self.blur), rng.uniform(*self.blur)
            angle = rng.uniform(-math.pi, math.pi)
            if kind == "iso" or kind.endswith("_iso"):
                sigma_y, angle = sigma_x, 0.0
            blur = {"kernel": kind, "size": size, "sigma_x": sigma_x, "sigma_y": sigma_y, "angle": angle}
            if kind.startswith(("generalized", "plateau")):
                low, high = self.betag if kind.startswith("generalized") else self.betap
                blur["beta"] = rng.uniform(low, 1) if rng.uniform() < 0.5 else rng.uniform(1, high)
        return [{"op": "blur", **blur}] if rng.uniform() < self.blurred else []

    def draw_scale(self, rng: np.random.Generator) -> float:
        """What the round resizes by; 1 keeps."""
        which = rng.choice(3, p=np.array(self.resize) / sum(self.resize))
        return float((rng.uniform(1, self.scale[1]), rng.uniform(self.scale[0], 1), 1.0)[which])

    def noise_step(self, rng: np.random.Generator) -> Step:
        """Gaussian or Poisson, coloured or gray."""
        if rng.uniform() < self.gaussian:
            step: Step = {"op": "noise", "sigma": rng.uniform(*self.noise)}
        else:
            step = {"op": "poisson", "scale": rng.uniform(*self.poisson)}
        return step | {"gray": bool(rng.uniform() < self.gray_noise), "seed": int(rng.integers(2**53))}

    def jpeg_step(self, rng: np.random.Generator) -> Step:
        """Its JPEG."""
        return {"op": "jpeg", "quality": int(rng.uniform(*self.jpeg))}


@dataclass(frozen=True)
class SecondOrder:
    """Real-ESRGAN's chain (realesrgan_model.py feed_data): two rounds, then resize to 1/`small` of the picture with a
    sinc filter, before or after the second JPEG with even odds. Every resize is area, bilinear or bicubic.

    In θ each resize is a `downsample` whose factor is relative to the picture it finds, so a θ fits any size.
    """

    first: Order
    second: Order
    small: float  # the second round works at 1/small of the side
    final_sinc: float  # probability

    def steps(self, rng: np.random.Generator) -> list[Step]:
        """Both rounds and the end at 1/`small`; `Preset.sample` adds the way back to the size of the picture (ours)."""
        steps = self.first.kernel_steps(rng)
        scale = self.first.draw_scale(rng)
        steps += _resized(rng, 1 / scale)
        steps += [self.first.noise_step(rng), self.first.jpeg_step(rng)]
        steps += self.second.kernel_steps(rng)
        again = self.second.draw_scale(rng)
        steps += _resized(rng, scale * self.small / again)
        steps.append(self.second.noise_step(rng))
        end = _resized(rng, again)
        if rng.uniform() < self.final_sinc:
            size = int(rng.integers(self.second.size[0] // 2, self.second.size[1] // 2 + 1)) * 2 + 1
            cutoff = rng.uniform(math.pi / 3, math.pi)
            end.append({"op": "blur", "kernel": "sinc", "size": size, "cutoff": cutoff})
        jpeg = [self.second.jpeg_step(rng)]
        return steps + (end + jpeg if rng.uniform() < 0.5 else jpeg + end)


def _resized(rng: np.random.Generator, factor: float) -> list[Step]:
    interpolation = str(rng.choice(("area", "bilinear", "bicubic")))
    return [] if factor == 1 else [{"op": "downsample", "factor": factor, "interpolation": interpolation}]


def make_generator(*key: int | str) -> np.random.Generator:
    """A generator that depends on the key alone: the same on every machine, for any worker, in any order."""
    digest = hashlib.sha256(json.dumps(key).encode()).digest()
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(int.from_bytes(digest, "big"))))


def check_seed(seed: int) -> None:
    """Raise BadInput for a seed that the ledger cannot keep."""
    if not 0 <= seed <= MAX_SEED:
        raise BadInput(f"--seed is {seed}; it must be at least 0 and at most {MAX_SEED}.")


def sample_theta(preset: Preset, seed: int, key: str) -> Theta:
    """The θ of one face (or file) in a frozen set: keyed by (seed, "degrade", preset, key) and by nothing else."""
    return preset.sample(make_generator(seed, "degrade", preset.name, key))
