"""Trains the HQ dictionary and the LQ dictionary of recipe `vre`, and their association (OSDFace's stage 1).

OSDFace describes this stage in its GitHub issue 11: one VQ autoencoder reconstructs HQ images, and another reconstructs
LQ images. The HQ autoencoder trains for 50 epochs and the LQ autoencoder for 10 epochs, without the association. Then
both autoencoders train for 10 epochs with an association loss of weight 1.

In this file, both autoencoders train together from the start, because a run has a single count of images seen. The
association starts after 50/60 (ours) of the images, because OSDFace's HQ autoencoder trains 50 of 60 epochs without the
association.

OSDFace's poster calls the association a "diagonal correlation". We have not seen OSDFace's formula. OSDFace's networks
have the layout of DAEFR's networks, so we use DAEFR's formula (DAEFR/models/association_stage.py) with DAEFR's initial
temperature. In this file, the temperature is constant: it is not trained.

Two choices are from a re-implementation of OSDFace (ManaswiYadamreddy/CRAFT): the L1 loss for the reconstruction, and
`freeze_hq`, which freezes the HQ autoencoder during the association.

The restarts of unused codes are ours. Without restarts, only 12 of 256 codes were in use on base tiny after 600 images,
so most of the 77 tokens of a prompt were empty.
"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from train.models.checkpoint_files import write_model_files
from train.models.config import ModelConfig
from train.models.io import Places, Restoration
from train.models.prompts.vq import VQ, Quantizer
from train.models.prompts.vre import RECIPE, read_dictionary, unreadable
from train.models.timesteps.denoise import NoisyStep
from train.recipes.recipes import find_recipe

ALONE = 50 / 60  # The association starts after this share of the images, see above.
TEMPERATURE = 0.07  # The temperature of the association, DAEFR's initial value.
IDLE = 320  # A code is restarted if no vector chose it during this number (ours) of images.


class Dictionary(nn.Module):
    """Computes three losses of recipe `vre` from HQ and LQ faces. Without HQ faces, `forward` restores the LQ faces.

    `facts` has the same keys as the facts of a Restorer. The association has a gradient after `association_from`
    images. If `freeze_hq` is True, the HQ autoencoder is no longer trained from then on.
    """

    hq_idle: torch.Tensor
    lq_idle: torch.Tensor

    def __init__(self, config: ModelConfig, facts: dict[str, Any] | None = None, freeze_hq: bool = False) -> None:
        super().__init__()
        self.config = config
        self.facts = dict(facts or {})
        self.hq, self.lq = VQ(config.vre), VQ(config.vre)
        self.association_from = round(ALONE * find_recipe(RECIPE, config.base).images)
        self.freeze_hq = freeze_hq
        self.associates = False  # Whether the loss of the association has a gradient.
        for name in ("hq_idle", "lq_idle"):  # For each code, the number of images since a vector last chose it.
            self.register_buffer(name, torch.zeros(config.vre.codes, dtype=torch.long))

    def begin_step(self, seen: int) -> None:
        """Starts the association if the training has seen enough images. Call this method before each step."""
        self.associates = seen >= self.association_from

    def forward(
        self,
        lq: torch.Tensor,
        references: torch.Tensor,
        present: torch.Tensor,
        embeddings: torch.Tensor,
        target: torch.Tensor | None = None,
        places: Places | None = None,
        noisy: NoisyStep | None = None,
    ) -> Restoration:
        """Returns the reconstructed faces, or without `target` the restored faces. `lq` and `target` are (B,3,S,S) in
        0..1.

        The arguments are those of Restorer. Only `lq` and `target` are used. `latent` of the result has the quantised
        vectors (B,dim,s,s).

        With `target`, `image` is the HQ autoencoder's reconstruction of the target. `terms` has the losses
        "reconstruction" (mean absolute error), "codebook" and "association". The first two are sums over the HQ and the
        LQ autoencoder. `pairs` has the reconstructions and the inputs.

        Without `target`, each vector of the LQ face is replaced by the nearest HQ code, and the HQ decoder makes
        `image` from these codes (ours). The replacement works because the association loss makes LQ vectors similar to
        HQ vectors.
        """
        # Resize the LQ faces to the embedder's input size, map them to -1..1, and encode them to vectors (B,dim,s,s).
        small = self._sized(lq)
        lq_vectors = self.lq.encode(small)
        if target is None:
            quantised = self.hq.quantize.replace(lq_vectors)
            return self._answer(quantised, self.hq.decode(quantised), lq, {})
        true, frozen = self._sized(target), self.freeze_hq and self.associates
        images = len(lq) * _world()
        # Restart unused codes first, so that the batch can choose the new codes. Then quantise and decode HQ and LQ. If
        # the HQ autoencoder is frozen, its parameters get no gradient, so AdamW does not change them.
        with torch.no_grad() if frozen else nullcontext():
            hq_vectors = self.hq.encode(true)
            if self.training and not frozen:
                restart(self.hq.quantize, hq_vectors, self.hq_idle, images)
            hq_quantised, hq_codebook = self.hq.quantize(hq_vectors)
            hq_again = self.hq.decode(hq_quantised)
        if self.training:
            restart(self.lq.quantize, lq_vectors, self.lq_idle, images)
        lq_quantised, lq_codebook = self.lq.quantize(lq_vectors)
        lq_again = self.lq.decode(lq_quantised)
        joined = association(hq_vectors, lq_vectors)
        terms = {
            # The images here are in -1..1. Half of their error is the error of images in 0..1.
            "reconstruction": (_error(hq_again, true) + _error(lq_again, small)) / 2,
            "codebook": hq_codebook + lq_codebook,
            "association": joined if self.associates else joined.detach(),
        }
        pairs = tuple((again / 2 + 0.5, shown / 2 + 0.5) for again, shown in ((hq_again, true), (lq_again, small)))
        return self._answer(hq_quantised, hq_again, target, terms)._replace(pairs=pairs)

    def save_pretrained(self, folder: Path) -> None:
        """Writes config.json and model.safetensors into `folder`."""
        write_model_files(Path(folder), self.config, self.facts, self.state_dict())

    @classmethod
    def from_pretrained(cls, folder: Path) -> Dictionary:
        """Returns the dictionary of a checkpoint folder, or of the newest checkpoint in a RUN folder, in eval mode.

        Raises BadInput if `folder` has no dictionary or a broken dictionary.
        """
        config, facts, tensors = read_dictionary(Path(folder))
        model = cls(config, facts)
        try:
            model.load_state_dict(tensors)
        except RuntimeError as error:
            raise unreadable(folder, error) from error
        return model.eval()

    def _sized(self, image: torch.Tensor) -> torch.Tensor:
        size = self.config.vre.size
        return F.interpolate(image, size=(size, size), mode="bilinear", align_corners=False) * 2 - 1

    def _answer(
        self, quantised: torch.Tensor, decoded: torch.Tensor, like: torch.Tensor, terms: dict[str, torch.Tensor]
    ) -> Restoration:
        image = F.interpolate(decoded.float(), size=like.shape[-2:], mode="bilinear", align_corners=False) / 2 + 0.5
        return Restoration(image if self.training else image.clamp(0, 1), quantised, None, terms)


@torch.no_grad()
def restart(quantize: Quantizer, vectors: torch.Tensor, idle: torch.Tensor, images: int) -> None:
    """Replaces each code that no vector chose in the last IDLE images by a random vector of this batch.

    `vectors` is (B,dim,s,s). `images` is the total number of images in the batches of all processes. `idle` (codes,)
    int64 has the number of images since each code was last chosen, and is updated in place. All processes get the same
    new codes. The method is the random restart of Jukebox (Dhariwal 2020, section 3.1).
    """
    # `chosen` (codes,) is 1 for each code that a vector of this batch chooses, and 0 for the others. `rows` (codes,dim)
    # has one random vector of this batch for each code.
    weight = quantize.embedding.weight
    code, _ = quantize.nearest(vectors)
    chosen = torch.zeros_like(idle).scatter_(0, code.flatten(), 1)
    rows = vectors.to(weight.dtype).permute(0, 2, 3, 1).flatten(0, 2)
    rows = rows[torch.randint(len(rows), (len(weight),), device=rows.device)]
    # A code counts as chosen if any process chose it. All processes use the random vectors of the first process.
    if _world() > 1:
        torch.distributed.all_reduce(chosen, torch.distributed.ReduceOp.MAX)
        torch.distributed.broadcast(rows, 0)
    # Update the counts, and replace the codes that were idle for too long.
    idle.copy_(torch.where(chosen > 0, 0, idle + images))
    dead = idle >= IDLE
    weight.copy_(torch.where(dead.unsqueeze(1), rows, weight))
    idle.masked_fill_(dead, 0)


def association(hq: torch.Tensor, lq: torch.Tensor, temperature: float = TEMPERATURE) -> torch.Tensor:
    """Returns the association loss of DAEFR, a scalar of 0 or more. `hq` and `lq` are vectors before quantising.

    Both are (B,dim,s,s). The logits are the cosine similarities between all HQ vectors and all LQ vectors, divided by
    `temperature`. For each HQ vector, the LQ vector of the same image and place is the right class, and vice versa. The
    loss is the mean of the two cross-entropies.
    """
    with torch.autocast(hq.device.type, enabled=False):
        ours, theirs = (F.normalize(z.float().permute(0, 2, 3, 1).flatten(0, 2), dim=1) for z in (hq, lq))
        similar = ours @ theirs.t() / temperature
        truth = torch.arange(len(similar), device=hq.device)
        return (F.cross_entropy(similar, truth) + F.cross_entropy(similar.t(), truth)) / 2


def _world() -> int:
    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1


def _error(again: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    return F.l1_loss(again.float(), truth.float())
