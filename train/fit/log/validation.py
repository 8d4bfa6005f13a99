"""Measures the model during training. Each validation restores the same faces with the averaged weights."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from train.data import dataset as data
from train.data.to_device import to_device
from train.fit.engine import Engine
from train.fit.log.figures import Diverged
from train.fit.log.logbook import Logbook
from train.fit.steps.reference_embeddings import embed_references

GRID = 8  # Number of images in samples/*.png.
VALIDATION = 32  # Number of images that are measured.


@torch.no_grad()
def validate(log: Logbook | None, seen: int, *, engine: Engine, faces: data.Batch | None, began: float) -> None:
    """Writes a "val" line and samples/<images>.png. The function writes nothing if `faces` or `log` is None.

    The line has the mean PSNR in dB and the mean cosine to the target's embedding. PSNR and cosine are measured for the
    input ("lq"), for faces restored with references ("restored"), and for faces restored without references ("alone").
    Pixels outside the photo do not count: PSNR leaves these pixels out, and the recognizer sees the target's pixels
    instead. `began` is the value of time.monotonic() at the start of the command. Raises Diverged if a restored face
    contains NaN or infinity.
    """
    if faces is None or log is None:
        return
    values: dict[str, list[float]] = {}
    restored_parts: list[torch.Tensor] = []
    with engine.average.swap_in(), _eval_mode(engine.model):
        for start in range(0, len(faces["lq"]), engine.recipe.batch):
            chosen = slice(start, start + engine.recipe.batch)
            batch = to_device({name: part[chosen] for name, part in faces.items()}, engine.device)
            batch = embed_references(engine.encoder, batch)
            nobody = torch.zeros_like(batch["present"])
            restored, alone = (
                engine.model(batch["lq"], batch["references"], present, batch["embeddings"]).image
                for present in (batch["present"], nobody)
            )
            if not (bool(torch.isfinite(restored).all()) and bool(torch.isfinite(alone).all())):
                raise Diverged(
                    f"Training stopped after {seen} images: a face that was restored for samples/ contains NaN or "
                    "infinity. Start a new run with another --out and --precision fp32, or with another recipe or seed."
                )
            valid, target = batch["valid"], batch["target"]
            for name, unmasked in (("lq", batch["lq"]), ("alone", alone), ("restored", restored)):
                images = torch.where(valid, unmasked, target)
                error = (images - target).square().sum((1, 2, 3)) / (3 * valid.sum((1, 2, 3)).clamp(min=1))
                values.setdefault(f"psnr_{name}", []).extend((-10 * error.clamp(min=1e-10).log10()).tolist())
                if engine.recognizer is not None:
                    cosines = (engine.recognizer(images) * engine.recognizer(target)).sum(1)
                    values.setdefault(f"identity_{name}", []).extend(cosines.tolist())
            restored_parts.append(restored.cpu())
    log.write("val", seen, time.monotonic() - began, {name: sum(many) / len(many) for name, many in values.items()})
    first = to_device({name: faces[name][:GRID] for name in ("lq", "references", "target")}, torch.device("cpu"))
    log.grid(seen, first["lq"], first["references"], torch.cat(restored_parts)[:GRID], first["target"])


@contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    """Puts the model into eval mode inside the context."""
    model.eval()
    try:
        yield
    finally:
        model.train()
