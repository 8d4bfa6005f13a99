"""Reads the values of a recipe from TOML or JSON. The annotation of the field of `Recipe` gives the type of the value.

A new field of `Recipe` therefore needs no change in this file. The tables of this file limit the values of some fields.
"""

from __future__ import annotations

import math
import types
from collections.abc import Collection
from dataclasses import fields, is_dataclass
from typing import Any, Union, get_args, get_origin, get_type_hints

from manifests.errors import BadInput
from manifests.runtime.text import suggest_name
from train.losses.names import LOSSES
from train.recipes.recipes import AUGMENTS, DIFFUSION, DISCRIMINATORS, IDENTITY_ENCODERS, PARTS, STYLEGAN, TINY

NONE = "none"  # TOML has no null: this text stands for None in a field that can be None

# The valid texts of fields, and the valid keys of tables.
_CHOICES: dict[str, Collection[str]] = {
    "base": (TINY, DIFFUSION, STYLEGAN),
    "parts": PARTS,
    "augment": AUGMENTS,
    "discriminator": DISCRIMINATORS,
    "identity_encoder": IDENTITY_ENCODERS,
    "loss": LOSSES,
    "late_factors": LOSSES,
}
# The smallest and the largest value of each field (ours). `size` ends at 512, the size of the crops of a dataset.
_LIMITS: dict[str, tuple[float, float]] = {
    "size": (32, 512),
    "timestep": (1, 999),
    "diffused_timesteps": (0, 1000),
    "mixture": (0, 1),
    "gray_share": (0, 1),
    "identity_jitter": (0, 0.25),
    "wrong_share": (0, 1),
    "rate": (1e-9, 1),
    "beta1": (0, 0.999),
    "decoder_share": (1e-9, 1),
    **dict.fromkeys(("batch", "images", "ema", "r1_every", "latent_factor", "channels", "fine_repeats"), (1, math.inf)),
    "reference_channels": (1, math.inf),
}
_ANY_NUMBER = (0.0, math.inf)  # the limits of all other numbers
_TYPES = {int: "a whole number", float: "a number", str: "a text in quotes", bool: "true or false"}


def read_value(place: str, key: str, kind: Any, value: Any) -> Any:
    """Returns `value` as the type `kind`, which is the annotation of a field.

    Lists become tuples, and whole numbers become float if `kind` is float. `place` is the file or the option that is
    named in error messages, and `key` is the TOML path of the field. Raises BadInput if `value` has another type, is
    not finite, is outside the limits of the field, or is not a valid name.
    """
    field = key.split(".")[0].split("[")[0]
    if get_origin(kind) in (Union, types.UnionType):
        return _read_optional(place, key, kind, value)
    if is_dataclass(kind):
        return read_fields(place, key, kind, value)
    if get_origin(kind) is tuple:
        item = get_args(kind)[0]
        if not isinstance(value, list | tuple):
            raise BadInput(f"{place}: {key} is {value!r}; it must be a list in brackets.")
        return tuple(read_value(place, f"{key}[{i}]", item, entry) for i, entry in enumerate(value))
    if get_origin(kind) is dict:
        if not isinstance(value, dict):
            raise BadInput(f"{place}: {key} is {value!r}; it must be a table with names and values.")
        for name in value:
            check_name(place, key, name, _CHOICES.get(key))
        return {name: read_value(place, f"{key}.{name}", get_args(kind)[1], entry) for name, entry in value.items()}
    if kind is Any:
        return value
    accepted = (int, float) if kind is float else (kind,)
    if type(value) not in accepted:  # not isinstance, because True is an int in Python
        raise BadInput(f"{place}: {key} is {value!r}; it must be {_TYPES[kind]}.")
    if kind in (int, float):
        _check_number(place, key, value, *_LIMITS.get(field, _ANY_NUMBER))
    elif kind is str:
        check_name(place, key, value, _CHOICES.get(field))
    return kind(value)


def read_fields(place: str, key: str, kind: Any, table: Any) -> Any:
    """Returns the dataclass `kind` with the values of `table`. Raises BadInput if a key is unknown or missing."""
    if not isinstance(table, dict):
        raise BadInput(f"{place}: {key} is {table!r}; it must be a table with names and values.")
    hints = get_type_hints(kind)
    for name in table:
        check_name(place, key, name, hints)
    if missing := [field.name for field in fields(kind) if field.name not in table]:
        raise BadInput(f"{place}: {key} has no {missing[0]}: add the key {missing[0]}.")
    return kind(**{name: read_value(place, f"{key}.{name}", hints[name], table[name]) for name in hints})


def check_name(place: str, key: str, name: str, names: Collection[str] | None) -> None:
    """Raises BadInput if `name` is not in `names`, the valid names for the key `key`. If `names` is None, every name is
    valid."""
    if names is not None and name not in names:
        listed = [entry for entry in names if entry]
        empty = " An empty text is also valid." if "" in names else ""
        raise BadInput(f"{place}: {name!r} is not valid for {key}. {suggest_name(name, listed)}{empty}")


def _read_optional(place: str, key: str, kind: Any, value: Any) -> Any:
    if value is None or value == NONE:
        return None
    inner = [option for option in get_args(kind) if option is not type(None)]
    return read_value(place, key, inner[0], value)


def _check_number(place: str, key: str, value: float, low: float, high: float) -> None:
    if not math.isfinite(value):
        raise BadInput(f"{place}: {key} is {value}; it must be a finite number.")
    if not low <= value <= high:
        limits = f"{low:g} or more" if high == math.inf else f"from {low:g} to {high:g}"
        raise BadInput(f"{place}: {key} is {value!r}; it must be {limits}.")
