"""Defines the operations and limits of a θ, and checks a θ.

A θ is plain JSON that describes one degradation completely. The docstring of degrade.operations.apply shows an example.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from manifests.errors import BadInput

VERSION = 2  # the version of a new θ; the docstring of degrade.operations.apply describes the versions

Theta = dict[str, Any]
Step = dict[str, Any]

INTERPOLATIONS = ("bilinear", "bicubic", "area", "pool", "imresize")
GAUSSIAN, SHAPED = ("iso", "aniso"), ("generalized_iso", "generalized_aniso", "plateau_iso", "plateau_aniso")
KERNELS = (*GAUSSIAN, *SHAPED, "sinc", "motion")


@dataclass(frozen=True)
class Number:
    """Accepts a number from `low` to `high`, both included. If `whole` is True, accepts only a whole number."""

    low: float
    high: float
    whole: bool = False

    def find_problem(self, value: object) -> str | None:
        """Returns None if the value is valid, otherwise a text that describes the valid values."""
        kinds = (int,) if self.whole else (int, float)
        # NaN fails the comparison with `low`. In Python, True is an int, but True is not a valid number here.
        if isinstance(value, bool) or not isinstance(value, kinds) or not self.low <= value <= self.high:
            return (
                f"a {'whole ' if self.whole else ''}number from {self._format(self.low)} to {self._format(self.high)}"
            )
        return None

    def _format(self, end: float) -> str:
        return str(end) if self.whole else f"{end:g}"


@dataclass(frozen=True)
class OneOf:
    """Accepts only the values in `choices`. True and False are compared by identity, so 1 does not count as True."""

    choices: tuple[object, ...]

    def find_problem(self, value: object) -> str | None:
        """Returns None if the value is valid, otherwise a text that describes the valid values."""
        if any(value is choice or (isinstance(value, str) and value == choice) for choice in self.choices):
            return None
        return " or ".join(str(choice).lower() if isinstance(choice, bool) else str(choice) for choice in self.choices)


_SIGMA, _RESIZE, _SHIFT, _ANGLE = Number(0, 1000), OneOf(INTERPOLATIONS), Number(-1, 1), Number(-1000, 1000)
# A seed is at most 2**53, because every JSON reader reads whole numbers up to this limit exactly.
_GRAY, _SEED, _FACTOR = OneOf((True, False)), Number(0, 2**53, whole=True), Number(0, 100)

Fields = dict[str, Number | OneOf]

# `FIELDS` contains the parameters of each operation and the valid values of each parameter. The limits are ours and
# far outside every published range.
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
_KERNEL_FIELDS: dict[str, Fields] = {
    **dict.fromkeys(GAUSSIAN, _ELLIPSE),
    **{name: {**_ELLIPSE, "beta": Number(0.01, 100)} for name in SHAPED},
    "sinc": {"cutoff": Number(0.01, math.pi)},
    "motion": {"length": Number(0, 255), "angle": _ANGLE},
}


def check_theta(theta: Any) -> None:
    """Raises BadInput if the θ is incomplete or not valid."""
    if not isinstance(theta, dict):
        raise BadInput(f"A θ must be a JSON object with the keys version and steps, not {_shorten(theta)}.")
    for key in ("version", "steps"):
        if key not in theta:
            raise BadInput(f"This θ has no {key}, so it cannot be replayed: add the key {key}.")
    version = theta["version"]
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise BadInput(f"The version of this θ is {_shorten(version)}; it must be a whole number from 1 to {VERSION}.")
    if version > VERSION:
        raise BadInput(
            f"This θ has version {_shorten(version)}, but this Likeness knows only versions 1 to {VERSION}: "
            "update Likeness."
        )
    if unknown := [key for key in theta if key not in ("version", "preset", "steps")]:
        raise BadInput(
            f"This θ has a key that version {version} does not know: {_shorten(unknown[0], str)}. Remove this key."
        )
    if not isinstance(theta["steps"], list):
        raise BadInput(f"The steps of a θ must be a list, not {_shorten(theta['steps'])}.")
    for number, step in enumerate(theta["steps"], 1):
        _check_step(f"Step {number} of this θ", step)


def _check_step(place: str, step: Any) -> None:
    name = step.get("op") if isinstance(step, dict) else None
    if not isinstance(name, str) or name not in FIELDS:
        raise BadInput(f"{place} has no known operation: its op must be one of {', '.join(FIELDS)}.")
    fields = FIELDS[name]
    _check_fields(f"{place} ({name})", step, fields)
    if name == "blur":
        if step["size"] % 2 == 0:
            raise BadInput(f"{place} (blur): size is {step['size']}; it must be odd.")
        fields = fields | _KERNEL_FIELDS[step["kernel"]]
        _check_fields(f"{place} (blur {step['kernel']})", step, fields)
    if unknown := [key for key in step if key not in ("op", *fields)]:
        raise BadInput(f"{place} ({name}) has an unknown key: {_shorten(unknown[0], str)}. Remove this key.")


def _check_fields(place: str, step: dict[str, Any], fields: Fields) -> None:
    for key, field in fields.items():
        if key not in step:
            raise BadInput(f"{place} has no {key}, so it cannot be replayed: add the key {key}.")
        if problem := field.find_problem(step[key]):
            raise BadInput(f"{place}: {key} is {_shorten(step[key])}; it must be {problem}.")


def _shorten(value: object, to_text: Callable[[object], str] = repr) -> str:
    """Returns the value as text on one line, cut to 40 characters."""
    try:
        text = to_text(value).replace("\n", " ")
    except (ValueError, RecursionError):  # the value is an integer of more than 4,300 digits, or a deeply nested list
        return f"a {type(value).__name__} too large to print"
    return text if len(text) <= 40 else f"{text[:37]}..."
