"""Draws a θ from a preset. The numbers of a θ are drawn from the ranges of the preset.

Generators with the same seed must always give the same steps, because every frozen set depends on the order of the
draws. To keep this order, a number that a preset does not use is not drawn. A new setting must therefore add draws only
to presets that use the setting.
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

# The ranges are the defaults of color_jitter_pt in GFPGAN's ffhq_degradation_dataset.py.
_JITTER: tuple[tuple[str, Range], ...] = (
    ("brightness", (0.5, 1.5)),
    ("contrast", (0.5, 1.5)),
    ("saturation", (0.0, 1.5)),
    ("hue", (-0.1, 0.1)),
)

# The order of the steps in a θ. Most presets add the noise to the small image, and also compress the small image.
_CHAIN = ("blur", "downsample", "quantise", "noise", "jpeg", "upsample")
_FULL_SIZE_CHAIN = ("blur", "noise", "downsample", "quantise", "upsample", "jpeg")


@dataclass(frozen=True)
class Preset:
    """Holds the ranges from which a θ is drawn. Every draw is uniform. If a range is None, its step is left out.

    Lengths are in pixels of the image that is degraded. Most published presets were made for faces of 512 px, and
    degrade a smaller face more severely.
    """

    name: str
    blur: Range | None  # The sigma of the blur kernel, in pixels.
    down: Range | None  # The factor by which each side is divided; a factor below 1 enlarges the image.
    noise: Range | None  # The sigma of the noise, in 1/255.
    jpeg: Range | None  # The quality; the draw is truncated to a whole number, so the upper end itself never occurs.
    resize: str  # The interpolation of the downsample, and also of the upsample if `upsample` is None.
    shift: Range = (0, 0)  # The probability of a colour shift, and the largest change of a channel in 1/255.
    jitter: float = 0  # The probability of changing brightness, contrast, saturation and hue, in random order.
    gray: float = 0  # The probability of a gray image.
    iso: float = 0.5  # The probability of an isotropic kernel; other kernels draw two sigmas and an angle.
    kernel: int = 41  # The side of the kernel in pixels.
    save: bool = False  # True rounds the image to 8 bits after downsampling, as saving a file does.
    whole: bool = False  # True draws the factor of `down` from the whole numbers of its range, both ends included.
    motion: Range = (0, 0)  # The probability of a motion kernel, and the largest length of the kernel in pixels.
    gray_noise: float = 0  # The probability that all three channels share one noise value.
    upsample: str | None = None  # The interpolation of the upsample.
    full_size: bool = False  # True adds the noise before the downsample, and runs the JPEG step after the upsample.
    # A second-order chain, which replaces `blur`, `down`, `noise` and `jpeg`. The upsample and the colour changes still
    # run.
    orders: SecondOrder | None = None

    def sample(self, rng: np.random.Generator) -> Theta:
        """Returns a complete θ for `degrade.operations.apply`."""
        upsample: Step = {"op": "upsample", "interpolation": self.upsample or self.resize}
        if self.orders is not None:
            steps = [*self.orders.sample_steps(rng), upsample]
        else:
            drawn = {step["op"]: step for step in (*self._sample_steps(rng), upsample)}
            steps = [drawn[op] for op in (_FULL_SIZE_CHAIN if self.full_size else _CHAIN) if op in drawn]
        steps += self._sample_colour(rng)
        return {"version": VERSION, "preset": self.name, "steps": steps}

    def _sample_steps(self, rng: np.random.Generator) -> list[Step]:
        """Returns the steps of the chain except the upsample, in the order of the draws."""
        steps: list[Step] = []
        if self.blur is not None:
            steps.append({"op": "blur", **self._sample_kernel(rng, self.blur)})
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

    def _sample_kernel(self, rng: np.random.Generator, sigma: Range) -> Step:
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

    def _sample_colour(self, rng: np.random.Generator) -> list[Step]:
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
    """Holds the ranges of one round of a second-order chain: blur, resize, noise and JPEG.

    `SecondOrder` decides where the JPEG of each round is in the chain.
    """

    blur: Range  # The sigma of the blur kernel, in pixels.
    size: tuple[int, int]  # The smallest and the largest side of a kernel in pixels, both odd.
    kernels: tuple[tuple[str, float], ...]  # The names of the kernels and their shares.
    betag: Range  # The beta of generalized kernels; half of the draws are below 1.
    betap: Range  # The beta of plateau kernels; half of the draws are below 1.
    sinc: float  # The probability of a sinc kernel in place of one of `kernels`.
    blurred: float  # The probability that the round blurs the image.
    resize: tuple[float, float, float]  # The probabilities of enlarging, shrinking and keeping the size.
    # The factor of the resize. To enlarge, the draw is from 1 to the upper end; to shrink, from the lower end to 1.
    scale: Range
    gaussian: float  # The probability of Gaussian noise; otherwise the noise is Poisson noise.
    noise: Range  # The sigma of Gaussian noise, in 1/255.
    poisson: Range  # The factor by which Poisson noise is multiplied.
    gray_noise: float  # The probability that all three channels share one noise value.
    jpeg: Range  # The quality; the draw is truncated to a whole number.

    def sample_blur(self, rng: np.random.Generator) -> list[Step]:
        """Returns the blur step of this round as a list, which is empty for a round without blur."""
        size = int(rng.integers(self.size[0] // 2, self.size[1] // 2 + 1)) * 2 + 1
        if rng.uniform() < self.sinc:
            # A small kernel gets a higher cutoff, because a small kernel rings at a low cutoff (realesrgan_dataset.py).
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

    def sample_scale(self, rng: np.random.Generator) -> float:
        """Returns the factor of the resize in this round. The factor 1 keeps the size."""
        choice = rng.choice(3, p=np.array(self.resize) / sum(self.resize))
        return float((rng.uniform(1, self.scale[1]), rng.uniform(self.scale[0], 1), 1.0)[choice])

    def sample_noise(self, rng: np.random.Generator) -> Step:
        """Returns a step of Gaussian or Poisson noise, coloured or gray."""
        if rng.uniform() < self.gaussian:
            step: Step = {"op": "noise", "sigma": rng.uniform(*self.noise)}
        else:
            step = {"op": "poisson", "scale": rng.uniform(*self.poisson)}
        return step | {"gray": bool(rng.uniform() < self.gray_noise), "seed": int(rng.integers(2**53))}

    def sample_jpeg(self, rng: np.random.Generator) -> Step:
        """Returns the JPEG step of this round."""
        return {"op": "jpeg", "quality": int(rng.uniform(*self.jpeg))}


@dataclass(frozen=True)
class SecondOrder:
    """Holds the ranges of Real-ESRGAN's chain (feed_data in realesrgan_model.py).

    After two rounds, the image is resized to 1/`small` of its side, and filtered by a sinc kernel with the probability
    `final_sinc`. The resize to 1/`small` and the sinc filter come before the second JPEG with a probability of 1/2, and
    otherwise after the second JPEG. Every resize uses area, bilinear or bicubic interpolation. In θ, each resize of
    Real-ESRGAN's chain is a `downsample` step. The factor of a `downsample` step is relative to the image before the
    step, so the same θ fits images of any size.
    """

    first: Order
    second: Order
    small: float  # At the end of the chain, each side of the image is 1/`small` of its full length.
    final_sinc: float  # The probability of the sinc filter at the end.

    def sample_steps(self, rng: np.random.Generator) -> list[Step]:
        """Returns the steps of both rounds, of the resize to 1/`small` of the side, and of the last sinc filter.

        `Preset.sample` adds the step that resizes the image back to its full size (ours).
        """
        steps = self.first.sample_blur(rng)
        first_scale = self.first.sample_scale(rng)
        steps += _sample_resize(rng, 1 / first_scale)
        steps += [self.first.sample_noise(rng), self.first.sample_jpeg(rng)]
        steps += self.second.sample_blur(rng)
        second_scale = self.second.sample_scale(rng)
        steps += _sample_resize(rng, first_scale * self.small / second_scale)
        steps.append(self.second.sample_noise(rng))
        end = _sample_resize(rng, second_scale)
        if rng.uniform() < self.final_sinc:
            size = int(rng.integers(self.second.size[0] // 2, self.second.size[1] // 2 + 1)) * 2 + 1
            cutoff = rng.uniform(math.pi / 3, math.pi)
            end.append({"op": "blur", "kernel": "sinc", "size": size, "cutoff": cutoff})
        jpeg = [self.second.sample_jpeg(rng)]
        return steps + (end + jpeg if rng.uniform() < 0.5 else jpeg + end)


def _sample_resize(rng: np.random.Generator, factor: float) -> list[Step]:
    interpolation = str(rng.choice(("area", "bilinear", "bicubic")))
    return [] if factor == 1 else [{"op": "downsample", "factor": factor, "interpolation": interpolation}]


def make_generator(*key: int | str) -> np.random.Generator:
    """Returns a random generator that depends only on the key.

    The generator is the same on every machine and in every worker.
    """
    digest = hashlib.sha256(json.dumps(key).encode()).digest()
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(int.from_bytes(digest, "big"))))


def check_seed(seed: int) -> None:
    """Raises BadInput if the ledger cannot store the seed."""
    if not 0 <= seed <= MAX_SEED:
        raise BadInput(f"--seed is {seed}; it must be at least 0 and at most {MAX_SEED}.")


def sample_theta(preset: Preset, seed: int, key: str) -> Theta:
    """Returns the θ of one face or one file of a frozen set. The θ depends only on (seed, preset, key)."""
    return preset.sample(make_generator(seed, "degrade", preset.name, key))
