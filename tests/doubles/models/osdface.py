"""Writes a folder in the layout of OSDFace's release, with small random weights."""

from pathlib import Path

import torch
from safetensors.torch import save_file

from train.models.config import VreConfig
from train.models.prompts.vq import VQ
from train.models.prompts.vre import Projection
from train.models.released.osdface import EMBEDDER, EMBEDDER_PREFIX, LORA, PROJECTION

SHAPE = VreConfig(size=32, channels=32, multipliers=(1, 2), codes=90, dim=24, tokens=77, doubly_normalised=True)


def write_osdface(folder: Path, prompt_dim: int, adapted: str, width: int) -> Path:
    """Writes the three files of the release. The adapters change the layer `adapted` of the UNet, of this width."""
    folder.mkdir(parents=True)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(2)
        embedder = VQ(SHAPE, decodes=False)
        codes = embedder.encode(torch.rand(4, 3, SHAPE.size, SHAPE.size) * 4 - 3).permute(0, 2, 3, 1).flatten(0, 2)
        embedder.quantize.embedding.weight.copy_(codes[torch.randperm(len(codes))[: SHAPE.codes]])
        state = {f"{EMBEDDER_PREFIX}{name}": tensor for name, tensor in embedder.state_dict().items()}
        torch.save({"state_dict": state}, folder / EMBEDDER)
        torch.save(Projection(SHAPE.dim, prompt_dim).state_dict(), folder / PROJECTION)
        shapes = {"lora_A": (3, width), "lora_B": (width, 3)}
        save_file(
            {f"unet.{adapted}.{half}.weight": torch.randn(shape) for half, shape in shapes.items()}, folder / LORA
        )
    return folder
