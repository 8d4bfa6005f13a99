"""A user's own preset: a TOML or JSON file with the keys of `drawing.Preset`, checked key by key.

    down = [2, 16]              # required, like resize; a range is [low, high]
    resize = "bilinear"
    blur = [0.5, 8]             # a key left out leaves the step out
    noise = [0, 15]
    jpeg = [40, 95]

A second-order chain has a table `orders` instead, with `first`, `second`, `small` and `final_sinc`.
"""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from degrade.sampling import Order, Preset, SecondOrder
from degrade.theta import GAUSSIAN, INTERPOLATIONS, SHAPED, Number, OneOf
from manifests.errors import BadInput

_SHARE, _BETA, _ODD = Number(0, 1), Number(0.01, 100), Number(1, 255, whole=True)
_FLAG, _QUALITY = OneOf((True, False)), Number(1, 100)

# key -> what its value is, or what both ends of its range are
_RANGES = {
    "blur": Number(0, 1000),
    "down": Number(0.1, 100_000),
    "noise": Number(0, 1000),
    "jpeg": _QUALITY,
    "size": _ODD,
    "betag": _BETA,
    "betap": _BETA,
    "scale": Number(0.1, 10),
    "poisson": Number(0, 100),
}
_PAIRS = {"shift": (_SHARE, Number(0, 255)), "motion": (_SHARE, Number(0, 255))}
_VALUES: dict[str, Number | OneOf] = {
    "resize": OneOf(INTERPOLATIONS),
    "kernel": _ODD,
    "save": _FLAG,
    "whole": _FLAG,
    "small": Number(1, 100),
    **dict.fromkeys(("jitter", "gray", "iso", "gray_noise", "sinc", "blurred", "gaussian", "final_sinc"), _SHARE),
}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def read_preset(path: Path) -> Preset:
    """The preset in a .toml or .json file; without a `name` it takes the file's. Raises BadInput, one sentence."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path} cannot be read ({error.strerror}): name a preset or a .toml or .json file.") from None
    try:
        found = json.loads(data) if path.suffix.lower() == ".json" else tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:  # both decoders, and text that is not UTF-8
        raise BadInput(f"{path} is not valid {path.suffix[1:].upper()}: {str(error).splitlines()[0]}") from None
    if not isinstance(found, dict):
        raise BadInput(f"{path} is not a preset: it must be an object with keys like down and resize.")
    found = {"name": path.stem, **found}
    where = str(path)
    if not isinstance(found["name"], str) or not _NAME.fullmatch(found["name"]):
        raise BadInput(f"{where}: name is {found['name']!r}; it must be letters, digits, dots, dashes or underscores.")
    if "orders" in found:
        if extra := sorted(found.keys() & {"blur", "down", "noise", "jpeg", "save", "whole", "motion", "gray_noise"}):
            raise BadInput(f"{where}: {extra[0]} has no meaning beside orders; leave one of them out.")
        found["orders"] = _orders(f"{where}, orders", found["orders"])
    known = {field.name for field in fields(Preset)}
    _known(where, found, known)
    for key in ("resize",) if "orders" in found else ("down", "resize"):
        if key not in found:
            raise BadInput(f"{where} has no {key}: every preset needs it.")
    values = {key: _value(where, key, value) for key, value in found.items() if key not in ("name", "orders")}
    if values.get("whole") and any(end != int(end) or end < 1 for end in values["down"]):
        raise BadInput(f"{where}: down is {found['down']!r}; with whole, both ends must be whole numbers from 1.")
    blank = {"blur": None, "down": None, "noise": None, "jpeg": None}
    return Preset(**{**blank, **values, "name": found["name"], "orders": found.get("orders")})


def _orders(where: str, found: Any) -> SecondOrder:
    keys = _complete(where, found, SecondOrder)
    values: dict[str, Any] = {}
    for key in keys:
        if key not in ("first", "second"):
            values[key] = _value(where, key, found[key])
            continue
        inside = _complete(f"{where}.{key}", found[key], Order)
        values[key] = Order(**{name: _value(f"{where}.{key}", name, found[key][name]) for name in inside})
    return SecondOrder(**values)


def _complete(where: str, found: Any, kind: type) -> list[str]:
    if not isinstance(found, dict):
        raise BadInput(f"{where} must be a table.")
    keys = [field.name for field in fields(kind) if field.default is MISSING]
    _known(where, found, set(keys))
    if missing := [key for key in keys if key not in found]:
        raise BadInput(f"{where} has no {missing[0]}: every second-order preset needs it.")
    return keys


def _known(where: str, found: dict[str, Any], known: set[str]) -> None:
    if unknown := sorted(found.keys() - known):
        raise BadInput(f"{where}: nobody knows the key {unknown[0]}; the keys are {', '.join(sorted(known))}.")


def _value(where: str, key: str, value: Any) -> Any:
    """One checked value: ranges and pairs become tuples. Raises BadInput."""
    if key == "kernels":
        return _shares(where, value)
    if key == "resize" and isinstance(value, list):  # of an order: probabilities of up, down, keep
        if len(value) != 3 or any(_SHARE.problem(each) for each in value) or sum(value) <= 0:
            raise BadInput(f"{where}: resize is {value!r}; it must be three probabilities, of up, down and keep.")
        return tuple(value)
    if key in _VALUES:
        if problem := _VALUES[key].problem(value):
            raise BadInput(f"{where}: {key} is {value!r}; it must be {problem}.")
        if _VALUES[key] is _ODD and value % 2 == 0:
            raise BadInput(f"{where}: {key} is {value!r}; it must be odd.")
        return value
    if value is None and key in ("blur", "noise", "jpeg"):
        return None
    ends = _PAIRS.get(key) or (_RANGES[key], _RANGES[key])
    if not isinstance(value, list) or len(value) != 2:
        raise BadInput(f"{where}: {key} is {value!r}; it must be two numbers in brackets.")
    for end, each in zip(ends, value, strict=True):
        if problem := end.problem(each):
            raise BadInput(f"{where}: {key} holds {each!r}; it must be {problem}.")
    if key in _RANGES and value[0] > value[1]:
        raise BadInput(f"{where}: {key} is {value!r}, which is empty; the first number must not be the larger one.")
    if key == "size" and any(each % 2 == 0 for each in value):
        raise BadInput(f"{where}: size is {value!r}; both must be odd.")
    return tuple(value)


def _shares(where: str, value: Any) -> tuple[tuple[str, float], ...]:
    names = (*GAUSSIAN, *SHAPED)
    pairs = list(value.items()) if isinstance(value, dict) else value
    wrong = f"{where}: kernels must be a table of names ({', '.join(names)}) and their shares."
    if not isinstance(pairs, list) or not pairs or not all(isinstance(p, list | tuple) and len(p) == 2 for p in pairs):
        raise BadInput(wrong)
    if any(name not in names or _SHARE.problem(share) for name, share in pairs) or sum(s for _, s in pairs) <= 0:
        raise BadInput(wrong)
    return tuple((name, share) for name, share in pairs)
