"""Reads presets from the TOML or JSON files of users and checks each key.

The keys of a preset file are the fields of `degrade.sampling.Preset`.

    down = [2, 16]              # required, like resize; a range is [low, high]
    resize = "bilinear"
    blur = [0.5, 8]             # without this key, there is no blur step; the same is true of noise and jpeg
    noise = [0, 15]
    jpeg = [40, 95]

A second-order chain has the table `orders` in place of the ranges of a simple chain. The keys of `orders` are `first`,
`second`, `small` and `final_sinc`.
"""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any

from degrade.sampling import Order, Preset, SecondOrder
from degrade.theta import GAUSSIAN, INTERPOLATIONS, SHAPED, Number, OneOf
from manifests.errors import BadInput

_SHARE, _BETA, _ODD = Number(0, 1), Number(0.01, 100), Number(1, 255, whole=True)
_FLAG, _QUALITY = OneOf((True, False)), Number(1, 100)

# `_RANGES` contains the valid numbers for both ends of each range.
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
# `_PAIRS` contains the valid numbers for the first and for the second number of each pair.
_PAIRS = {"shift": (_SHARE, Number(0, 255)), "motion": (_SHARE, Number(0, 255))}
# `_VALUES` contains the valid values of every other key.
_VALUES: dict[str, Number | OneOf] = {
    "resize": OneOf(INTERPOLATIONS),
    "upsample": OneOf(INTERPOLATIONS),
    "kernel": _ODD,
    "save": _FLAG,
    "whole": _FLAG,
    "full_size": _FLAG,
    "small": Number(1, 100),
    **dict.fromkeys(("jitter", "gray", "iso", "gray_noise", "sinc", "blurred", "gaussian", "final_sinc"), _SHARE),
}
# The keys that describe a simple chain. A preset with a second-order chain has none of these keys.
_SIMPLE_CHAIN = {"blur", "down", "noise", "jpeg", "save", "whole", "full_size", "motion", "gray_noise"}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def read_preset(path: Path) -> Preset:
    """Returns the preset of a .toml or .json file. Without the key `name`, the preset gets the name of the file.

    Raises BadInput if the file cannot be read or is not a valid preset.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadInput(f"{path} cannot be read ({error.strerror}): name a preset, or a .toml or .json file.") from None
    try:
        content = json.loads(data) if path.suffix.lower() == ".json" else tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:  # ValueError means invalid JSON, invalid TOML or invalid UTF-8
        raise BadInput(f"{path} is not valid {path.suffix[1:].upper()}: {str(error).splitlines()[0]}") from None
    if not isinstance(content, dict):
        raise BadInput(f"{path} is not a preset: it must be an object with keys like down and resize.")
    return read_preset_table(str(path), {"name": path.stem, **content})


def read_preset_table(place: str, content: dict[str, Any]) -> Preset:
    """Returns the preset that the keys and values of a preset file describe. `content` must have the key `name`.

    `place` is the file or the table that an error message names. Raises BadInput if `content` is not a valid preset.
    """
    table = dict(content)
    if not isinstance(table["name"], str) or not _NAME.fullmatch(table["name"]):
        raise BadInput(
            f"{place}: name is {table['name']!r}; it must be 1 to 64 letters, digits, dots, dashes or underscores, "
            "and start with a letter or a digit."
        )
    if "orders" in table:
        if extra := sorted(table.keys() & _SIMPLE_CHAIN):
            raise BadInput(f"{place} has both {extra[0]} and orders: leave one of them out.")
        table["orders"] = _read_orders(f"{place}, orders", table["orders"])
    _check_keys(place, table, {field.name for field in fields(Preset)})
    for key in ("resize",) if "orders" in table else ("down", "resize"):
        if key not in table:
            raise BadInput(f"{place} has no {key}: add the key {key}.")
    values = {key: _read_value(place, key, value) for key, value in table.items() if key not in ("name", "orders")}
    if values.get("whole") and any(end != int(end) or end < 1 for end in values["down"]):
        raise BadInput(
            f"{place}: down is {table['down']!r}; if whole is true, both ends must be whole numbers from 1 upwards."
        )
    blank = {"blur": None, "down": None, "noise": None, "jpeg": None}
    return Preset(**{**blank, **values, "name": table["name"], "orders": table.get("orders")})


def describe_preset(preset: Preset) -> dict[str, Any]:
    """Returns the preset as keys and values of a preset file. `read_preset_table` makes the same preset from them.

    The values are numbers, texts, booleans, lists and tables, so TOML and JSON can hold them. A key that has its
    default value is left out.
    """
    table = {
        field.name: getattr(preset, field.name)
        for field in fields(Preset)
        if getattr(preset, field.name) is not None and getattr(preset, field.name) != field.default
    }
    if preset.orders is not None:
        table["orders"] = asdict(preset.orders)
    return dict(json.loads(json.dumps(table)))  # JSON turns tuples into lists


def _read_orders(place: str, table: Any) -> SecondOrder:
    values: dict[str, Any] = {}
    for key in _check_table(place, table, SecondOrder):
        if key not in ("first", "second"):
            values[key] = _read_value(place, key, table[key])
            continue
        keys = _check_table(f"{place}.{key}", table[key], Order)
        values[key] = Order(
            **{name: _read_value(f"{place}.{key}", name, table[key][name], in_order=True) for name in keys}
        )
    return SecondOrder(**values)


def _check_table(place: str, table: Any, kind: type) -> list[str]:
    """Returns the keys that a table of this kind must have. Raises BadInput if a key is missing or unknown."""
    if not isinstance(table, dict):
        raise BadInput(
            f"{place} is not a table: write a table with the keys {', '.join(f.name for f in fields(kind))}."
        )
    keys = [field.name for field in fields(kind) if field.default is MISSING]
    _check_keys(place, table, set(keys))
    if missing := [key for key in keys if key not in table]:
        raise BadInput(f"{place} has no {missing[0]}, which every second-order preset needs: add the key {missing[0]}.")
    return keys


def _check_keys(place: str, table: dict[str, Any], valid_keys: set[str]) -> None:
    if unknown := sorted(table.keys() - valid_keys):
        raise BadInput(f"{place} has the unknown key {unknown[0]}; the keys are {', '.join(sorted(valid_keys))}.")


def _read_value(place: str, key: str, value: Any, in_order: bool = False) -> Any:
    """Returns one checked value of a preset. Ranges and pairs become tuples. Raises BadInput if the value is not valid.

    If `in_order` is True, the value belongs to one round of a second-order chain. In such a round, no value can be
    null, and `resize` is three probabilities.
    """
    if key == "kernels":
        return _read_shares(place, value)
    if key == "resize" and in_order:
        if not isinstance(value, list) or len(value) != 3 or any(map(_SHARE.find_problem, value)) or sum(value) <= 0:
            raise BadInput(
                f"{place}: resize is {value!r}; it must be the three probabilities of enlarging, shrinking and keeping "
                "the size."
            )
        return tuple(value)
    if key in _VALUES:
        if problem := _VALUES[key].find_problem(value):
            raise BadInput(f"{place}: {key} is {value!r}; it must be {problem}.")
        if _VALUES[key] is _ODD and value % 2 == 0:
            raise BadInput(f"{place}: {key} is {value!r}; it must be odd.")
        return value
    if value is None and key in ("blur", "noise", "jpeg") and not in_order:
        return None
    ends = _PAIRS.get(key) or (_RANGES[key], _RANGES[key])
    if not isinstance(value, list) or len(value) != 2:
        raise BadInput(f"{place}: {key} is {value!r}; it must be two numbers in brackets.")
    for end, number in zip(ends, value, strict=True):
        if problem := end.find_problem(number):
            raise BadInput(f"{place}: {key} contains {number!r}; it must be {problem}.")
    if key in _RANGES and value[0] > value[1]:
        raise BadInput(f"{place}: {key} is {value!r}; the first number must not be larger than the second.")
    if key == "size" and any(side % 2 == 0 for side in value):
        raise BadInput(f"{place}: size is {value!r}; both numbers must be odd.")
    return tuple(value)


def _read_shares(place: str, value: Any) -> tuple[tuple[str, float], ...]:
    names = (*GAUSSIAN, *SHAPED)
    pairs = list(value.items()) if isinstance(value, dict) else value
    message = (
        f"{place}: kernels must be a table that gives each name a share from 0 to 1, with at least one share above 0. "
        f"The names are: {', '.join(names)}."
    )
    if not isinstance(pairs, list) or not pairs or not all(isinstance(p, list | tuple) and len(p) == 2 for p in pairs):
        raise BadInput(message)
    if any(name not in names or _SHARE.find_problem(share) for name, share in pairs) or sum(s for _, s in pairs) <= 0:
        raise BadInput(message)
    return tuple((name, share) for name, share in pairs)
