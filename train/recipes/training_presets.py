"""Finds a preset for training by its name: a preset of degrade/presets.py, MILD, CLEAN, or a preset in a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from degrade.preset_files import read_preset_table
from degrade.presets import PRESETS, find_preset
from degrade.sampling import Preset

# The preset `mild` (ours) draws mild defects, like those of training targets. The presets from papers almost never draw
# a mild defect, and a restorer that was trained only on strong defects makes a good face worse.
MILD = Preset("mild", blur=(0.1, 1.5), down=(1, 2), noise=(0, 4), jpeg=(60, 100), resize="bilinear")
CLEAN = Preset("clean", blur=None, down=None, noise=None, jpeg=None, resize="bilinear")  # changes nothing
_OURS = {MILD.name: MILD, CLEAN.name: CLEAN}

TRAINING_PRESETS = (*PRESETS, *_OURS)  # the names of all built-in presets


def find_training_preset(name: str, own: Mapping[str, Mapping[str, Any]]) -> Preset:
    """Returns the preset with the name `name`. `own` is the value of `Recipe.presets`.

    Raises BadInput if there is no such preset.
    """
    if name in own:
        return read_preset_table(f"Preset {name}", {**own[name], "name": name})
    return _OURS[name] if name in _OURS else find_preset(name)
