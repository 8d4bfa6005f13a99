"""Moves a training batch to the device of the training, and degrades its targets there if the workers did not.

On a GPU, the worker processes only read crops and draw θ, and the GPU degrades a batch at once with the torch engine.
Without a GPU, the workers degrade with the exact engine, which takes at most a quarter of the time of the torch engine
on a CPU.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch

from degrade.engines.differentiable import degrade
from degrade.engines.differentiable_jpeg import send
from degrade.operations.resize import resize_matrix
from degrade.theta import Theta
from train.losses.resolution import find_enlarged
from train.models.io import Group, Places, find_places

Batch = dict[str, Any]  # tensors by name; train/data/dataset.py describes the names


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Returns the batch on the device, with images as float32 in 0..1.

    `theta`, `row` and `target_hash` stay on the CPU. If the batch has `source` in place of `lq`, the device degrades
    the sources, and `device_noise` of the batch is True.

    If the batch has `present`, every slot without a reference is zero in `references`.

    The function first adds three entries, which it computes on the CPU: `places` (see `find_places`), `enlarged_rows`
    (see `find_enlarged`) and `usable_rows`. `usable_rows` has one tensor (n,) int64 for each reference slot: the
    indices of the images whose reference in this slot shows the person of the target.
    """
    if "present" in batch and batch["present"].device.type == "cpu":
        usable = batch["present"] & batch["right"][:, None] if "right" in batch else batch["present"]
        rows = [slot.nonzero()[:, 0] for slot in usable.unbind(1)]
        batch = {**batch, "places": find_places(batch["present"]), "usable_rows": rows}
    if "upsample" in batch and batch["upsample"].device.type == "cpu":
        batch = {**batch, "enlarged_rows": find_enlarged(batch["upsample"])}

    if "source" in batch:
        lq = _degrade_on_device(batch["source"], batch["theta"], batch["target"].shape[-1], device)
        batch = {**{name: value for name, value in batch.items() if name != "source"}, "lq": lq, "device_noise": True}

    def move(value: Any) -> Any:
        if isinstance(value, Places | Group):
            return type(value)(*map(move, value))
        if isinstance(value, tuple):
            return tuple(map(move, value))
        if isinstance(value, list) and all(isinstance(part, torch.Tensor) for part in value):
            return [move(part) for part in value]
        if not isinstance(value, torch.Tensor):
            return value
        on_device = value.to(device, non_blocking=True)
        return on_device.float().div_(255) if on_device.dtype == torch.uint8 else on_device

    def move_references(slots: torch.Tensor, filled: torch.Tensor) -> torch.Tensor:
        # Convert only the slots that have a reference, because most slots are empty.
        if device.type != "cpu":
            pictures = torch.zeros(slots.shape, device=device)
            pictures.flatten(0, 1)[filled.to(device, non_blocking=True)] = move(slots.flatten(0, 1)[filled])
            return pictures
        # On a CPU, convert each picture in its place. This takes less than half of the time of the lines above
        # (measured), because memory is written less often.
        pictures, has_reference = torch.empty(slots.shape), set(filled.tolist())
        for slot, (place, source) in enumerate(zip(pictures.flatten(0, 1), slots.flatten(0, 1), strict=True)):
            if slot not in has_reference:
                place.zero_()
                continue
            place.copy_(source)
            if source.dtype == torch.uint8:
                place.div_(255)
        return pictures

    moved = {
        name: value if name in ("row", "target_hash") else move(value)
        for name, value in batch.items()
        if name != "references"
    }
    if "references" in batch:
        places = batch.get("places")
        slots = batch["references"]
        moved["references"] = move(slots) if places is None else move_references(slots, places.filled)
    return moved


@torch.no_grad()
def _degrade_on_device(
    sources: list[torch.Tensor], thetas: list[Theta], size: int, device: torch.device
) -> torch.Tensor:
    """Returns the LQ images (B,3,S,S) float32 on the device, with S = `size` and values on the 1/255 grid.

    `sources` are the images to degrade, each uint8 (3,S',S') on the CPU, with S' >= S. Images of equal size are
    degraded together. An image that is larger than S px is shrunk after the degradation, as
    `degrade.operations.pixels.shrink` shrinks it. The device draws the noise. The CPU does not wait for a result.
    """
    groups: dict[torch.Size, list[int]] = defaultdict(list)
    for place, source in enumerate(sources):
        groups[source.shape].append(place)
    lq: list[torch.Tensor] = [torch.empty(0)] * len(sources)
    for places in groups.values():
        pixels = torch.stack([sources[place] for place in places]).to(device, non_blocking=True)
        degraded = degrade(pixels.float() / 255, [thetas[place] for place in places], device_noise=True)
        for place, image in zip(places, _shrink(degraded, size).unbind(0), strict=True):
            lq[place] = image
    return torch.stack(lq)


def _shrink(images: torch.Tensor, size: int) -> torch.Tensor:
    """Area-resizes images (n,3,S',S') to (n,3,S,S) and rounds to 8 bits. OpenCV rounds halves up for uint8."""
    if images.shape[-1] == size:
        return images
    # The products run in float64, because a GPU may compute float32 products with fewer bits.
    weights = send(resize_matrix(images.shape[-1], size, "area"), images, torch.float64)
    levels = (weights @ (images.double() * 255) @ weights.T + 0.5).floor()
    return (levels / 255).float()
