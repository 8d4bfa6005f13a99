"""θ: what a valid one is, and the sentence for one that is not."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from manifests.errors import BadInput

VERSION = 2

Theta = dict[str, Any]
Step = dict[str, Any]

INTERPOLATIONS = ("bilinear", "bicubic", "area", "imresize")
GAUSSIAN, SHAPED = ("iso", "aniso"), ("generalized_iso", "generalized_aniso", "plateau_iso", "plateau_aniso")
KERNELS = (*GAUSSIAN, *SHAPED, "sinc", "motion")


@dataclass(frozen=True)
class Number:
    low: float
    high: float
    whole: bool = False

    def problem(self, value: object) -> str | None:
        kinds = (int,) if self.whole else (int, float)
        # NaN fails the comparison; True is an int to Python and not to us
        if isinstance(value, bool) or not isinstance(value, kinds) or not self.low <= value <= self.high:
            return f"a {'whole ' if self.whole else ''}number from {self._said(self.low)} to {self._said(self.high)}"
        return None

    def _said(self, end: float) -> str:
        return str(end) if self.whole else f"{end:g}"


@dataclass(frozen=True)
class OneOf:
    choices: tuple[object, ...]

    def problem(self, value: object) -> str | None:
        if any(value is choice or (isinstance(value, str) and value == choice) for choice in self.choices):
            return None
        return " or ".join(str(choice).lower() if isinstance(choice, bool) else str(choice) for choice in self.choices)


_SIGMA, _RESIZE, _SHIFT, _ANGLE = Number(0, 1000), OneOf(INTERPOLATIONS), Number(-1, 1), Number(-1000, 1000)
# below 2**53, so that every JSON reader keeps the seed
_GRAY, _SEED, _FACTOR = OneOf((True, False)), Number(0, 2**53, whole=True), Number(0, 100)

Fields = dict[str, Number | OneOf]

# op -> its parameters and what they may be; limits are ours, far outside every published range
FIELDS: dict[str, Fields] = {
    "blur": {"kernel": OneOf(KERNELS), "size": Number(1, 255, whole=True)},
    "downsample": {"factor": Number(0.1, 100_000), "interpolation": _RESIZE},
    "noise": {"sigma": _SIGMA, "gray": _GRAY, "seed": _SEED},
    "poisson": {"scale": _FACTOR, "gray": _GRAY, "seed": _SEED},
    "jpeg": {"quality": Number(1, 100, whole=True)},
    "upsample": {"interpolation": _RESIZE},
    "shift": {"red": _SHIFT, "green": _SHIFT, "blue": _SHIFT},
    "gray": {},
    "brightness": {"factor": _FACTOR},
    "contrast": {"factor": _FACTOR},
    "saturation": {"factor": _FACTOR},
    "hue": {"factor": Number(-0.5, 0.5)},
    "quantise": {},
}
_ELLIPSE: Fields = {"sigma_x": _SIGMA, "sigma_y": _SIGMA, "angle": _ANGLE}
_OF_KERNEL: dict[str, Fields] = {
    **dict.fromkeys(GAUSSIAN, _ELLIPSE),
    **{name: {**_ELLIPSE, "beta": Number(0.01, 100)} for name in SHAPED},
    "sinc": {"cutoff": Number(0.01, math.pi)},
    "motion": {"length": Number(0, 255), "angle": _ANGLE},
}


def check_theta(theta: Any) -> None:
    """Raise BadInput, one sentence, where θ is not complete and valid."""
    if not isinstance(theta, dict):
        raise BadInput("A θ is a JSON object with the keys version and steps.")
    for key in ("version", "steps"):
        if key not in theta:
            raise BadInput(f"This θ has no {key}: it is incomplete and cannot be replayed.")
    version = theta["version"]
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise BadInput(f"The version of this θ is {_short(version)}; it must be a whole number from 1 to {VERSION}.")
    if version > VERSION:
        raise BadInput(
            f"This θ has version {_short(version)}, and this Likeness knows versions to {VERSION}: update Likeness."
        )
    if unknown := [key for key in theta if key not in ("version", "preset", "steps")]:
        raise BadInput(f"This θ has a key that version {version} does not know: {_short(unknown[0], str)}.")
    if not isinstance(theta["steps"], list):
        raise BadInput("The steps of a θ are a list.")
    for number, step in enumerate(theta["steps"], 1):
        _check_step(f"Step {number} of this θ", step)


def _check_step(where: str, step: Any) -> None:
    name = step.get("op") if isinstance(step, dict) else None
    if not isinstance(name, str) or name not in FIELDS:
        raise BadInput(f"{where} names no known operation ({', '.join(FIELDS)}).")
    fields = FIELDS[name]
    _check_fields(f"{where} ({name})", step, fields)
    if name == "blur":
        if step["size"] % 2 == 0:
            raise BadInput(f"{where} (blur): size is {step['size']}; it must be odd.")
        fields = fields | _OF_KERNEL[step["kernel"]]
        _check_fields(f"{where} (blur {step['kernel']})", step, fields)
    if unknown := [key for key in step if key not in ("op", *fields)]:
        raise BadInput(f"{where} ({name}) has a key that nobody knows: {_short(unknown[0], str)}.")


def _check_fields(where: str, step: dict[str, Any], fields: Fields) -> None:
    for key, field in fields.items():
        if key not in step:
            raise BadInput(f"{where} has no {key}: it is incomplete and cannot be replayed.")
        if problem := field.problem(step[key]):
            raise BadInput(f"{where}: {key} is {_short(step[key])}; it must be {problem}.")


def _short(value: object, said: Callable[[object], str] = repr) -> str:
    """What a sentence has room for, on one line."""
    try:
        text = said(value).replace("\n", " ")
    except (ValueError, RecursionError):  # a whole number of more than 4300 digits; lists in lists
        return f"a {type(value).__name__} too large to print"
    return text if len(text) <= 40 else f"{text[:37]}..."
