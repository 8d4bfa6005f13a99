"""Finds and loads `model_ir_se50.pth`, the released weights of the identity encoder IR-SE50."""

from __future__ import annotations

from pathlib import Path

from manifests.errors import BadInput
from train.losses.backbones import find_local_file
from train.models.config import IR_SE50, IrSeShape
from train.models.identity.identity_encoder import IdentityEncoder, IrSe
from train.models.released.read_pickled import load_tensors, read_pickled

FILE = "model_ir_se50.pth"
SOURCE = f"the {FILE} of pSp or ReFineFIR"
COUNTER = "num_batches_tracked"  # A tensor of each batch norm. Files of old versions of torch lack it.


def find_ir_se50(folder: Path | None) -> Path:
    """Returns the path of FILE in `folder` or, if it is not there, in the cache of torch hub. Downloads nothing.

    `folder` is the value of --weights. Raises BadInput if the file is in neither folder.
    """
    file = find_local_file(FILE, folder)
    if file is None:
        raise BadInput(
            f"The identity encoder ir_se50 needs the file {FILE}, which is missing: put {SOURCE} into a folder and "
            "give --weights FOLDER, or write --change identity_encoder=recognizer."
        )
    return file


def load_ir_se50(file: Path, shape: IrSeShape = IR_SE50) -> IdentityEncoder:
    """Returns the identity encoder with the weights of `file`. Raises BadInput if the file is missing or has another
    layout."""
    network = IrSe(shape)
    load_tensors(network, read_pickled(file, SOURCE), file, SOURCE, optional=[COUNTER])
    return IdentityEncoder(network)
