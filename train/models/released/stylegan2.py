"""Loads StyleGAN2's released weights, from which ReFine's training starts: `stylegan2-256-550000.pt` of rosinality.

The file has the generator under the key `g_ema`, and the discriminator under the key `d`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from manifests.errors import BadInput
from train.models.bases.stylegan.discriminator import StyleganDiscriminator
from train.models.bases.stylegan.generator import Generator
from train.models.released.read_pickled import load_tensors, read_pickled

FILE = "stylegan2-256-550000.pt"
SOURCE = f"the {FILE} of rosinality or ReFineFIR"
_MAPPING = re.compile(r"style\.\d+\.(weight|bias)")  # StyleGAN2's mapping network, which ReFine does not use


def load_stylegan2(file: Path, generator: Generator, discriminator: StyleganDiscriminator) -> None:
    """Loads the weights of `file` into the decoder of a generator and into a discriminator, in place.

    The encoder and the fusers are not changed, because StyleGAN2 has neither. Raises BadInput if the file is missing or
    broken, contains code, or does not fit the shape of the generator or of the discriminator.
    """
    read = read_pickled(file, SOURCE)
    for key in ("g_ema", "d"):
        if not isinstance(read.get(key), Mapping):
            raise BadInput(f"{file} has no dict of tensors with the name {key}: take {SOURCE}.")
    fusers = {name: tensor for name, tensor in generator.decoder.state_dict().items() if name.startswith("fuser")}
    tensors = {str(name): tensor for name, tensor in read["g_ema"].items() if _MAPPING.fullmatch(str(name)) is None}
    load_tensors(generator.decoder, fusers | tensors, file, SOURCE)
    load_tensors(discriminator, read["d"], file, SOURCE)
