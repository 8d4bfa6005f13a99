"""Writes a recipe as TOML, reads a recipe from a TOML file, a run or a checkpoint, and changes values of a recipe.

The keys of the file are the fields of `train.recipes.recipes.Recipe`. The losses are in the table `loss`. If `name` is
a recipe of train/recipes/recipes.py, missing keys get the values of that recipe. If `name` is a new name, the file must
contain all keys. A table in the file replaces the whole table of that recipe, for example:

    name = "tiny"
    batch = 8

    [loss]                      # without a line `edge`, there is no edge loss
    pixel = 1.0
    identity = 2.0
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, get_type_hints

from degrade.preset_files import describe_preset, read_preset_table
from manifests.errors import BadInput
from manifests.runtime.text import suggest_name
from train.losses.names import ADVERSARIAL, OF_DICTIONARY
from train.models.config import MOST_STEPS, REFINEMENT_SHRINK, STYLEGAN_SIZES
from train.recipes.recipe_values import NONE, check_name, read_value
from train.recipes.recipes import DIFFUSION, RECIPES, STYLEGAN, STYLEGAN_PARTS, TINY, VRE, Recipe, find_recipe
from train.recipes.training_presets import TRAINING_PRESETS, find_training_preset
from train.run_folders import RUN_CONFIG

RECIPE_FILE = "recipe.toml"  # The file with the recipe in a checkpoint folder.
# On base tiny, the latent has this side (ours) for every --size. The latent factor is 8 at 256 px, and 4 at 128 px.
LATENT_SIDE = 32
_KEYS = {"losses": "loss"}  # fields of Recipe that have another name in a file
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def format_recipe(recipe: Recipe) -> str:
    """Returns a recipe file with all values of the recipe. `read_recipe` reads the same recipe from this file."""
    return "\n".join(["# docs/recipes.md explains the keys.", *_format_table(tabulate(recipe), ())]) + "\n"


def tabulate(recipe: Recipe) -> dict[str, Any]:
    """Returns the values of the recipe as nested dicts with the keys of a recipe file."""
    return {_KEYS.get(name, name): value for name, value in asdict(recipe).items()}


def read_recipe(source: Path, base: str | None = None) -> Recipe:
    """Returns the recipe of a TOML file, or of the folder of a run or of a checkpoint.

    `base`, which is TINY, DIFFUSION or None, is used if the file has no key `base`. Raises BadInput if the file cannot
    be read or does not describe a recipe.
    """
    if source.is_dir():
        source = source / RECIPE_FILE if (source / RECIPE_FILE).is_file() else source / RUN_CONFIG
        if not source.is_file():
            raise BadInput(
                f"{source.parent} contains no recipe: give the folder of a run or of a checkpoint, or a .toml file."
            )
    try:
        data = source.read_bytes()
    except OSError as error:
        raise BadInput(
            f"{source} cannot be read ({error.strerror}): give a recipe, a .toml file or the folder of a run."
        ) from None
    try:
        if source.name != RUN_CONFIG:
            return build_recipe(str(source), tomllib.loads(data.decode()), base)
        table = json.loads(data)["recipe"]
        table = {_KEYS.get(name, name): value for name, value in table.items()}
    except (ValueError, RecursionError) as error:  # ValueError means invalid TOML, JSON or UTF-8
        kind = "JSON" if source.name == RUN_CONFIG else "TOML"
        raise BadInput(f"{source} is not valid {kind}: {str(error).splitlines()[0]}") from None
    except (TypeError, KeyError, AttributeError):  # the key recipe is missing, or its value is a name
        raise BadInput(f"{source} contains no recipe: give the folder of a run, or a .toml file.") from None
    return build_recipe(str(source), table, base)


def build_recipe(place: str, table: Mapping[str, Any], base: str | None = None) -> Recipe:
    """Returns the recipe that `table` describes. `place` is the file or the option that is named in error messages.

    Raises BadInput if a key is unknown or missing, or if a value is not valid.
    """
    hints = {_KEYS.get(name, name): kind for name, kind in get_type_hints(Recipe).items()}
    for key in table:
        if key not in hints:
            raise BadInput(f"{place}: a recipe has no key {key!r}. {suggest_name(key, hints)}")
    values = {key: read_value(place, key, hints[key], value) for key, value in table.items()}
    if "name" not in values:
        raise BadInput(f'{place} has no name: add the line name = "tiny", or the name of another recipe.')
    name = values["name"]
    usual = tabulate(find_recipe(name, values.get("base", base))) if name in RECIPES else {}
    if missing := [key for key in hints if key not in values and key not in usual]:
        raise BadInput(
            f"{place} has no {missing[0]}: a recipe that is called {name} needs all keys. `likeness train "
            "--show-recipe` prints all keys."
        )
    if "size" in values and "latent_factor" not in values:
        values["latent_factor"] = _choose_latent_factor(place, values["size"], {**usual, **values})
    complete = {key: values[key] if key in values else read_value(place, key, hints[key], usual[key]) for key in hints}
    complete["loss"] = {loss: weight for loss, weight in complete["loss"].items() if weight}
    recipe = Recipe(**{field.name: complete[_KEYS.get(field.name, field.name)] for field in fields(Recipe)})
    _check_presets(place, recipe)
    _check_together(place, recipe)
    return recipe


def change_recipe(recipe: Recipe, place: str, path: str, value: Any) -> Recipe:
    """Returns the recipe with another value at a TOML path such as `batch` or `loss.identity`.

    A change of `size` also changes `latent_factor`. The loss weight 0 removes a loss. `place` is the option that is
    named in error messages. Raises BadInput if the recipe has no such path, or if the value is not valid.
    """
    table = tabulate(recipe)
    *parents, key = path.split(".")
    inner: Any = table
    for depth, parent in enumerate(parents):
        if parent not in inner:
            raise BadInput(f"{place}: a recipe has no key {parent!r}. {suggest_name(parent, inner)}")
        inner = inner[parent]
        if not isinstance(inner, dict):
            raise BadInput(
                f"{place}: {'.'.join(parents[: depth + 1])} is one value, not a table: give a path without {key!r}."
            )
    inner[key] = value
    if path == "size" and type(value) is int:
        table["latent_factor"] = _choose_latent_factor(place, value, table)
    return build_recipe(place, table)


def split_change(option: str, change: str) -> tuple[str, Any]:
    """Returns the path and the value of a text such as `loss.identity=2`.

    The value is read as TOML. A value that is not valid TOML is a text. Raises BadInput if the sign = is missing.
    """
    path, sign, text = change.partition("=")
    if not sign or not path.strip():
        raise BadInput(f"{option} {change} has no value: write a key, the sign = and a value, such as batch=8.")
    try:
        return path.strip(), tomllib.loads(f"value = {text}")["value"]
    except ValueError:
        return path.strip(), text.strip()


def use_preset(recipe: Recipe, preset: str) -> Recipe:
    """Returns the recipe with another preset. `preset` is a name or a preset file.

    The numbers of a preset file become part of the recipe. Raises BadInput if there is no such preset.
    """
    if preset in recipe.presets:
        return change_recipe(recipe, f"--preset {preset}", "preset", preset)
    found = find_training_preset(preset, {})
    table = tabulate(recipe) | {"preset": found.name}
    if preset not in TRAINING_PRESETS:
        numbers = {key: value for key, value in describe_preset(found).items() if key != "name"}
        table["presets"] = {**recipe.presets, found.name: numbers}
    return build_recipe(f"--preset {preset}", table)


def _choose_latent_factor(place: str, size: int, table: Mapping[str, Any]) -> int:
    """Returns the latent factor for a new size. On base tiny, the side of the latent is always LATENT_SIDE."""
    if table["base"] != TINY:
        return int(table["latent_factor"])
    if size % LATENT_SIDE:
        raise BadInput(f"{place}: size is {size}; it must be a multiple of {LATENT_SIDE}.")
    return max(1, size // LATENT_SIDE)


def _check_presets(place: str, recipe: Recipe) -> None:
    for name, table in recipe.presets.items():
        if name in TRAINING_PRESETS:
            raise BadInput(f"{place}: the name {name} belongs to a built-in preset; choose another name.")
        read_preset_table(f"{place}, presets.{name}", {**table, "name": name})
    names = (*TRAINING_PRESETS, *recipe.presets)
    if recipe.preset.endswith((".toml", ".json")):
        raise BadInput(f"{place}: the key preset contains a file: give the file with --preset {recipe.preset}.")
    check_name(place, "preset", recipe.preset, names)
    for name in recipe.mixture:
        check_name(place, "mixture", name, names)


def _check_together(place: str, recipe: Recipe) -> None:
    if not recipe.name.isprintable() or not recipe.name:
        raise BadInput(f"{place}: name is {recipe.name!r}; it must have at least one character and no line break.")
    if not recipe.reference_counts:
        raise BadInput(f"{place}: reference_counts is empty; give one number or more, such as [0, 1, 2, 4].")
    if sum(recipe.mixture.values()) > 1 + 1e-9:
        raise BadInput(f"{place}: the shares of mixture add up to {sum(recipe.mixture.values()):g}; give at most 1.")
    if not recipe.losses:
        raise BadInput(f"{place}: the table loss is empty; give one loss or more.")
    if recipe.name != VRE and (own := [loss for loss in recipe.losses if loss in OF_DICTIONARY]):
        raise BadInput(f"{place}: the loss {own[0]} belongs to recipe vre; keep the name vre, or leave this loss out.")
    if ADVERSARIAL in recipe.losses and not recipe.discriminator:
        raise BadInput(f"{place}: the loss gan needs a discriminator; set the key discriminator, or remove the loss.")
    if recipe.name != VRE and recipe.freeze_hq:
        raise BadInput(f"{place}: freeze_hq is true; only recipe vre has an HQ autoencoder, so write false.")
    if recipe.denoise and recipe.name == VRE:
        raise BadInput(f"{place}: denoise is true; recipe vre trains no restorer, so write false.")
    if recipe.denoise and recipe.timestep < MOST_STEPS:
        raise BadInput(
            f"{place}: timestep is {recipe.timestep}; a denoiser takes up to {MOST_STEPS} steps, so it must be "
            f"{MOST_STEPS} or more."
        )
    if recipe.discriminator and (recipe.name == VRE) != (recipe.discriminator == "dictionary"):
        can = "can have only the discriminator dictionary" if recipe.name == VRE else "cannot have this discriminator"
        raise BadInput(f"{place}: discriminator is {recipe.discriminator}; recipe {recipe.name} {can}.")
    if recipe.diffused_timesteps and recipe.discriminator != "latent":
        raise BadInput(
            f'{place}: diffused_timesteps is {recipe.diffused_timesteps}; only the discriminator "latent" sees '
            "latents, so write diffused_timesteps = 0."
        )
    if recipe.r1 and recipe.discriminator != "stylegan":
        raise BadInput(f'{place}: r1 is {recipe.r1:g}; only the discriminator "stylegan" has R1, so write r1 = 0.')
    if STYLEGAN in (recipe.base, recipe.discriminator):
        _check_stylegan(place, recipe)
    if recipe.base == STYLEGAN:
        _check_stylegan_base(place, recipe)
        return
    # Each level of base tiny's UNet after the first halves the latent. In a diffusion model, the VAE shrinks the image
    # by a factor of 8, and the UNet shrinks the latent by a factor of 8.
    step = 64 if recipe.base == DIFFUSION else recipe.latent_factor * 2 ** max(0, len(recipe.channels) - 1)
    if recipe.refine_channels and recipe.latent_factor % REFINEMENT_SHRINK:
        raise BadInput(
            f"{place}: latent_factor is {recipe.latent_factor}; with refine_channels, it must be a multiple of "
            f"{REFINEMENT_SHRINK}. For a model without refinement, set refine_channels to 0."
        )
    if recipe.size % step:
        reason = f"with latent_factor {recipe.latent_factor}, " if recipe.base == TINY else ""
        raise BadInput(f"{place}: size is {recipe.size}; {reason}it must be a multiple of {step}.")


def _check_stylegan(place: str, recipe: Recipe) -> None:
    if recipe.size not in STYLEGAN_SIZES:
        sizes = ", ".join(map(str, STYLEGAN_SIZES))
        raise BadInput(f"{place}: size is {recipe.size}; the networks of stylegan have the sizes {sizes}.")
    if not recipe.channel_limit:
        raise BadInput(f"{place}: channel_limit is 0; the networks of stylegan need 1 or more, for example 64.")


def _check_stylegan_base(place: str, recipe: Recipe) -> None:
    if "embedding" not in recipe.parts or (other := [part for part in recipe.parts if part not in STYLEGAN_PARTS]):
        why = f"it cannot have {other[0]}" if "embedding" in recipe.parts else "it needs embedding"
        raise BadInput(f"{place}: the base stylegan can have the parts {', '.join(STYLEGAN_PARTS)}, and {why}.")
    if recipe.denoise:
        raise BadInput(f"{place}: denoise is true; the base stylegan cannot be a denoiser, so write false.")


def _format_table(table: Mapping[str, Any], path: tuple[str, ...]) -> list[str]:
    """Returns the lines of a TOML table: first its values, then a table for each dict in it."""
    lines = ["", f"[{'.'.join(map(_format_key, path))}]"] if path else []
    lines += [f"{_format_key(key)} = {_format_value(v)}" for key, v in table.items() if not isinstance(v, dict)]
    for key, value in table.items():
        if isinstance(value, dict):
            lines += _format_table(value, (*path, key))
    return lines


def _format_key(key: str) -> str:
    return key if _BARE_KEY.fullmatch(key) else _format_text(key)


def _format_value(value: Any) -> str:
    if value is None:
        return _format_text(NONE)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return _format_text(value)
    if isinstance(value, list | tuple):
        return f"[{_join(value)}]"
    return repr(value)


def _join(values: Iterable[Any]) -> str:
    return ", ".join(map(_format_value, values))


def _format_text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")  # a string in JSON is also a string in TOML
