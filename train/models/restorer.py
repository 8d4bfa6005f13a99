"""The restorer: one model made of parts, called once."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save
from torch import nn

from manifests.errors import BadInput
from manifests.storage import write_atomically
from train.checkpoint import CONFIG, WEIGHTS, newest_checkpoint
from train.models import latent, one_step
from train.models.config import ModelConfig
from train.models.references import ReferenceEncoder
from train.models.refine import Refinement
from train.models.unet import TinyUNet

REFERENCE_FACTOR = 4  # the reference encoder's own latent (ours): references need no finer detail than the joints see


class Restored(NamedTuple):
    """What one step gives."""

    image: torch.Tensor  # (B,3,S,S); clamped to 0..1 in eval mode
    latent: torch.Tensor  # the clean latent that was decoded
    prompt: torch.Tensor | None  # (B,N,D) what the UNet attended to; None where the recipe has no prompt


class Restorer(nn.Module):
    """LQ face and any number of references of the same person -> restored face, in one step.

    `facts` is what a user of the weights has to know and the network does not: `recipe`, `images` seen, `recognizer`
    (spec, sha256, licence, size, template, mean, std, dim), `template` (the five points of the crop, at 512 px).
    """

    def __init__(self, config: ModelConfig, facts: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.config = config
        self.facts = dict(facts or {})
        self.references = ReferenceEncoder(config.reference_channels, REFERENCE_FACTOR, config.embedding_dim)
        self.unet = TinyUNet(
            3 * config.latent_factor**2, config.channels, config.reference_channels, config.embedding_dim
        )
        self.refine = Refinement(config.refine_channels) if config.refine_channels else None

    def forward(
        self, lq: torch.Tensor, references: torch.Tensor, present: torch.Tensor, embeddings: torch.Tensor
    ) -> Restored:
        """Restore a batch.

        lq (B,3,S,S) float32 0..1; references (B,K,3,S,S) float32 0..1 in the same template; present (B,K) bool, False
        where a slot is empty; embeddings (B,K,d) unit rows of the recognizer named in `facts`. K may be 0 and may
        differ between calls; the order of the references does not matter.
        """
        z = latent.encode(lq, self.config.latent_factor)
        correction = self.unet(z, self.references(references, present, embeddings))
        noise = one_step.noise_of_correction(z, correction, self.config.timestep)
        clean = one_step.clean_from_noise(z, noise, self.config.timestep)
        restored = latent.decode(clean, self.config.latent_factor)
        if self.refine is not None:
            restored = self.refine(restored, lq)
        return Restored(restored if self.training else restored.clamp(0, 1), clean, None)

    def save_pretrained(self, folder: Path) -> None:
        """Write config.json and model.safetensors into `folder`."""
        folder = Path(folder)
        described = {"model": asdict(self.config), **self.facts}
        write_atomically(folder / CONFIG, json.dumps(described, indent=2, sort_keys=True).encode())
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in self.state_dict().items()}
        write_atomically(folder / WEIGHTS, save(tensors))

    @classmethod
    def from_pretrained(cls, folder: Path) -> Restorer:
        """Load a checkpoint folder, or the newest checkpoint of a RUN folder, in eval mode.

        Raises BadInput, with a sentence, for a folder that holds no checkpoint or one that is broken.
        """
        folder = newest_checkpoint(Path(folder))
        try:
            described = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
            model = cls(ModelConfig.from_json(described.pop("model")), described)
            model.load_state_dict(load_file(folder / WEIGHTS))
        except Exception as error:  # whatever is wrong with the files, the answer is the same
            raise BadInput(f"{folder} holds no restorer that this version can load ({error}).") from error
        return model.eval()
