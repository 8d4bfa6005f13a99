"""Recipe `vre`, OSDFace's stage 1: an HQ dictionary, an LQ dictionary, and the association of the two.

Published (OSDFace#11): two VQ autoencoders, each reconstructing its own domain, HQ for 50 epochs and LQ for 10 without
association, then 10 epochs more with association of weight 1. One run has one clock, so here both train together from
the start, and the association joins at HQ's share of these epochs (ours). OSDFace names no formula for it beyond a
"diagonal correlation"; DAEFR, whose layout this is, has one (DAEFR/models/association_stage.py), taken here with its
initial temperature kept. L1 for the reconstruction is ours, and so are the restarts of codes that nothing chooses:
without them 12 of 256 codes stayed in use on base tiny after 600 images, which leaves a prompt of 77 mostly empty.
"""

from __future__ import annotations

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
from train.recipes import find_recipe

ALONE = 50 / 60  # share of the recipe's images before the association: of HQ's epochs
TEMPERATURE = 0.07  # of the association: where DAEFR's learned one starts
IDLE = 320  # images without being chosen after which a code starts anew (ours)


class Dictionary(nn.Module):
    """HQ and LQ faces -> what the three losses of recipe `vre` are; LQ face -> a restored one from the HQ codebook.

    `facts` as of Restorer. `association_from` is the number of images after which the association has a gradient.
    """

    seen: torch.Tensor
    hq_idle: torch.Tensor
    lq_idle: torch.Tensor

    def __init__(self, config: ModelConfig, facts: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.config = config
        self.facts = dict(facts or {})
        self.hq, self.lq = VQ(config.vre), VQ(config.vre)
        self.association_from = round(ALONE * find_recipe(RECIPE, config.base).images)
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))  # images trained on, by all processes
        for name in ("hq_idle", "lq_idle"):  # images since each code was last chosen
            self.register_buffer(name, torch.zeros(config.vre.codes, dtype=torch.long))

    def forward(
        self,
        lq: torch.Tensor,
        references: torch.Tensor,
        present: torch.Tensor,
        embeddings: torch.Tensor,
        target: torch.Tensor | None = None,
        step: torch.Tensor | None = None,
        places: Places | None = None,
    ) -> Restoration:
        """lq and target (B,3,S,S) in 0..1; the other arguments are those of Restorer and are not used.

        With a target: `terms` has reconstruction (mean absolute error, HQ plus LQ), codebook (likewise summed) and
        association, `image` is the target through the HQ dictionary. Without: `image` is the LQ face's vectors, each
        replaced by the nearest HQ code, through the HQ decoder, which is what the association is for (ours). `latent`
        is the quantised vectors (B,dim,s,s).
        """
        small = self._sized(lq)
        lq_vectors = self.lq.encode(small)
        if target is None:
            quantised = self.hq.quantize.replaced(lq_vectors)
            return self._answer(quantised, self.hq.decode(quantised), lq, {})
        true = self._sized(target)
        hq_vectors = self.hq.encode(true)
        if self.training:
            images = len(lq) * _world()
            restart(self.hq.quantize, hq_vectors, self.hq_idle, images)
            restart(self.lq.quantize, lq_vectors, self.lq_idle, images)
        hq_quantised, hq_codebook = self.hq.quantize(hq_vectors)
        lq_quantised, lq_codebook = self.lq.quantize(lq_vectors)
        hq_again, lq_again = self.hq.decode(hq_quantised), self.lq.decode(lq_quantised)
        terms = {
            "reconstruction": (_error(hq_again, true) + _error(lq_again, small)) / 2,  # of 0..1, not of -1..1
            "codebook": hq_codebook + lq_codebook,
            "association": self._in_time(association(hq_vectors, lq_vectors), len(lq)),
        }
        return self._answer(hq_quantised, hq_again, target, terms)

    def save_pretrained(self, folder: Path) -> None:
        """Write config.json and model.safetensors into `folder`."""
        write_model_files(Path(folder), self.config, self.facts, self.state_dict())

    @classmethod
    def from_pretrained(cls, folder: Path) -> Dictionary:
        """Load a checkpoint folder, or the newest checkpoint of a RUN folder, in eval mode.

        Raises BadInput, with a sentence, for what holds no dictionary or a broken one.
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

    def _in_time(self, term: torch.Tensor, images: int) -> torch.Tensor:
        """The association's value, with a gradient only once the dictionaries have had their time alone."""
        joined = self.seen >= self.association_from
        if self.training:
            self.seen += images * _world()
        return torch.where(joined, term, term.detach())


@torch.no_grad()
def restart(quantize: Quantizer, vectors: torch.Tensor, idle: torch.Tensor, images: int) -> None:
    """Move every code that was chosen by none of the last IDLE images onto a vector of this batch, drawn at random.

    vectors (B,dim,s,s) of `images` images, counted over all processes, which all get the same codes; idle (codes,)
    int64 is brought up to date. The random restarts of Jukebox (Dhariwal 2020, section 3.1).
    """
    weight = quantize.embedding.weight
    code, _ = quantize.nearest(vectors)
    chosen = torch.zeros_like(idle).scatter_(0, code.flatten(), 1)
    rows = vectors.to(weight.dtype).permute(0, 2, 3, 1).flatten(0, 2)
    rows = rows[torch.randint(len(rows), (len(weight),), device=rows.device)]
    if _world() > 1:
        torch.distributed.all_reduce(chosen, torch.distributed.ReduceOp.MAX)
        torch.distributed.broadcast(rows, 0)
    idle.copy_(torch.where(chosen > 0, 0, idle + images))
    dead = idle >= IDLE
    weight.copy_(torch.where(dead.unsqueeze(1), rows, weight))
    idle.masked_fill_(dead, 0)


def association(hq: torch.Tensor, lq: torch.Tensor, temperature: float = TEMPERATURE) -> torch.Tensor:
    """How badly each position of the HQ faces is told from all others by its LQ counterpart, and the reverse.

    hq, lq (B,dim,s,s): the vectors before quantising. Rows and columns of their cosine similarities over `temperature`
    are classified, the diagonal being the truth; the mean of both cross-entropies, 0 or more. DAEFR's.
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
