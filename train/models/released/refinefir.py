"""Loads ReFineFIR's released weights as a restorer, for `--run refinefir:FOLDER`.

FOLDER contains two files with the authors' names:

`latest.pt` is the generator's state dict, or the authors' checkpoint with this state dict under the key `g`. The
    checkpoint also has the discriminator, the optimizers and the options (argparse.Namespace).
`model_ir_se50.pth` has the identity encoder that embeds the reference.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from manifests.errors import BadInput
from train.models.config import IR_SE50, REFINEFIR, SMALLEST_MAP, IrSeShape, ModelConfig, StyleganConfig
from train.models.released.ir_se50 import FILE as ENCODER
from train.models.released.ir_se50 import load_ir_se50
from train.models.released.read_pickled import load_tensors, read_pickled
from train.models.restorer import Restorer
from train.recipes.recipes import find_recipe

GENERATOR = "latest.pt"
SOURCE = "ReFineFIR's own latest.pt"
PARTS = ("mesh", "embedding")
# The tensors of StyleGAN2's mapping network, which the release contains but never calls.
_UNUSED = re.compile(r"decoder\.style\.\d+\.(weight|bias)")
_LEVEL = re.compile(r"encoder\.convs\.(\d+)\.1\.weight")


def load_refinefir(folder: Path, shape: StyleganConfig = REFINEFIR, encoder: IrSeShape = IR_SE50) -> Restorer:
    """Returns a restorer with ReFineFIR's released weights in `folder`, in eval mode.

    The restorer needs one reference for each face. The restorer's argument `references` has the warped references. The
    argument `embeddings` has the embeddings of the unwarped references, computed by the restorer's own
    `identity_encoder`. Raises BadInput if a file is missing or broken, contains code, or has another size or layout.
    """
    folder = Path(folder)
    for name in (GENERATOR, ENCODER):
        if not (folder / name).is_file():
            raise BadInput(f"{folder} lacks {name}: put ReFineFIR's {GENERATOR} and {ENCODER} there.")
    tensors = read_generator(folder / GENERATOR, shape)
    tiny = find_recipe("tiny")
    config = ModelConfig(
        base="stylegan",
        base_model="stylegan",
        size=shape.size,
        parts=PARTS,
        timestep=tiny.timestep,  # the generator ignores the timestep
        latent_factor=1,
        channels=(),
        reference_channels=(),
        refine_channels=0,
        lora_rank=0,
        embedding_dim=shape.identity,
        vre=tiny.vre,
        stylegan=shape,
        identity_encoder=encoder,
    )
    facts = {"recipe": "refine", "released": "ReFineFIR", "needs_reference": True}
    model = Restorer(config, facts)
    load_tensors(model.base.generator, tensors, folder / GENERATOR, SOURCE)
    model.identity_encoder = load_ir_se50(folder / ENCODER, encoder)
    return model.eval()


def read_generator(file: Path, shape: StyleganConfig) -> dict[str, Any]:
    """Reads the generator's tensors from a file, except those of the mapping network, which is not used.

    Raises BadInput if the file cannot be read, or has a generator for another image size.
    """
    read = read_pickled(file, SOURCE)
    state = read.get("g", read)
    if not isinstance(state, Mapping):
        raise BadInput(f"The value g of {file} is not a dict of tensors: take {SOURCE}.")
    size = SMALLEST_MAP * 2 ** sum(_LEVEL.fullmatch(str(name)) is not None for name in state)
    if size not in (SMALLEST_MAP, shape.size):
        raise BadInput(
            f"{file} is a generator for images of {size} px, and Likeness reads the released generator for "
            f"{shape.size} px: take {SOURCE}."
        )
    return {str(name): tensor for name, tensor in state.items() if _UNUSED.fullmatch(str(name)) is None}
