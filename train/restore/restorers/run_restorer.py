"""Runs a restorer of torch on a batch of faces."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext

import numpy as np
import torch

from train.data.mesh import warps_references
from train.data.tensors import to_tensors
from train.models.config import check_precision
from train.models.io import EncodedReferences, join_encoded
from train.models.restorer import Restorer
from train.recipes.recipes import TINY
from train.restore.references.reference_photos import References
from train.restore.restorers.bfloat16 import prefers_bfloat16

# The size of the cache of encoded references in bytes (ours). A reference of recipe tiny at 256 px needs .4 MB, and a
# reference of recipe instant at 512 px about 55 MB.
MOST_BYTES = 2**30
# The network of base tiny at 256 px needs this share of the processor time of a face. The rest is for detection,
# embeddings, checks and pasting. We measured the share with `benchmarks/restore_batches.py`.
TINY_SHARE = 0.25


def find_device(model: Restorer) -> torch.device:
    """Returns the device on which a restorer computes."""
    return next((weight.device for weight in model.parameters()), torch.device("cpu"))


def choose_precision(model: Restorer, precision: str | None, say: Callable[[str], None] = lambda _: None) -> str:
    """Returns the precision in which a restorer computes: `precision`, or the usual precision if `precision` is None.

    On a GPU that supports bfloat16, the usual precision is bf16, and the VAE of a diffusion base stays in float32. On a
    CPU, `prefers_bfloat16` decides (train/restore/restorers/bfloat16.py), and `say` gets a sentence if the usual
    precision is bf16. Raises BadInput if `precision` is unknown.
    """
    check_precision(precision)
    cuda = find_device(model).type == "cuda"
    if precision is None and cuda:
        precision = "bf16" if torch.cuda.is_bf16_supported(False) else "fp32"
    if precision is None:
        preferred, levels = prefers_bfloat16(model)
        precision = "bf16" if preferred else "fp32"
        if preferred:
            say(
                f"The restorer computes in bf16, which is faster on this CPU. On a test face, the result differs from "
                f"fp32 by {levels:.2f} of 255 levels on average: give --precision fp32 to restore in fp32."
            )
    if precision == "bf16" and cuda:
        keep_vae_in_float32(model)
    return precision


def keep_vae_in_float32(model: Restorer) -> None:
    """Makes the VAEs of a diffusion base compute in float32, even under autocast.

    In a trial of ours, the results of the VAE's decoder in bfloat16 differed from those in float32 by up to 1.7% of the
    range of values.
    """
    device = find_device(model).type
    for vae in (getattr(model.base, name, None) for name in ("vae", "reference_vae")):
        if vae is not None:
            vae.encode = torch.autocast(device, enabled=False)(vae.encode)
            vae.decode = torch.autocast(device, enabled=False)(vae.decode)


def can_encode_once(model: Restorer) -> bool:
    """Returns whether the restorer encodes references, and does not warp them to each face."""
    parts = model.config.parts
    encodes = bool({"maps", "extended", "features"} & set(parts))
    return encodes and model.config.stylegan is None and not warps_references(parts)


@contextmanager
def leave_cores(model: Restorer) -> Iterator[None]:
    """Lets the network of base tiny use only a share of the cores, because other threads need the other cores.

    With more threads than free cores, each operation of torch would wait for its slowest thread.
    """
    threads = torch.get_num_threads()
    if model.config.base != TINY:
        yield
        return
    torch.set_num_threads(max(1, round(TINY_SHARE * threads)))
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class ReferenceCache:
    """Encodes each reference once, and keeps the result for later faces.

    If the results need more than MOST_BYTES, the least recently used results are removed.
    """

    def __init__(self, model: Restorer) -> None:
        self._model = model
        self._encoded: OrderedDict[bytes, EncodedReferences] = OrderedDict()

    def encode(self, crops: np.ndarray) -> list[EncodedReferences]:
        """Returns the result of `Restorer.encode_references` for each of the crops, uint8 (K, S, S, 3).

        Each crop is encoded alone, so the results do not depend on the batch size.
        """
        device, found = find_device(self._model), []
        for crop in crops:
            key = hashlib.sha256(np.ascontiguousarray(crop).data).digest()
            if key not in self._encoded:
                self._encoded[key] = self._model.encode_references(to_tensors(crop[None]).to(device))
            self._encoded.move_to_end(key)
            found.append(self._encoded[key])
        while len(self._encoded) > 1 and sum(map(_count_bytes, self._encoded.values())) > MOST_BYTES:
            self._encoded.popitem(last=False)
        return found


@torch.inference_mode()
def run_batch(
    model: Restorer,
    lq: torch.Tensor,
    references: Sequence[References],
    precision: str = "fp32",
    cache: ReferenceCache | None = None,
) -> torch.Tensor:
    """Restores images (B, 3, S, S) in 0..1, and returns the restored images, float32 of the same shape.

    `references` has the references of each image. An image with fewer references than another gets empty slots, which
    the restorer does not read. The input and the result are on the CPU, and the restorer computes on its own device.
    `precision` is fp32 or bf16. With bf16, torch's autocast decides which operations use bfloat16. With `cache`,
    references in the cache are not encoded again.
    """
    device = find_device(model)
    counts = [len(one.crops) for one in references]
    present = torch.arange(max(counts))[None] < torch.tensor(counts)[:, None]
    embeddings = _fill_slots([torch.from_numpy(one.embeddings) for one in references], present)
    if not max(counts):
        # Empty references have the length of the recognizer's embeddings, but the restorer can need another length.
        embeddings = torch.zeros(len(lq), 0, model.config.embedding_dim)
    with torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext():
        if cache is None or not max(counts):
            crops = _fill_slots([to_tensors(one.crops) for one in references], present)
            inputs = lq.to(device), crops.to(device), present.to(device), embeddings.to(device)
            restored = model(*inputs)
        else:
            encoded = join_encoded([one for own in references for one in cache.encode(own.crops)])
            crops = torch.zeros(1, device=device).expand(*present.shape, *lq.shape[1:])  # is not read
            inputs = lq.to(device), crops, present.to(device), embeddings.to(device)
            restored = model(*inputs, encoded=encoded)
    image: torch.Tensor = restored.image.float().cpu()
    return image


def _fill_slots(rows: Sequence[torch.Tensor], present: torch.Tensor) -> torch.Tensor:
    """Returns a tensor (B, K, ...). The rows (k, ...) of an image fill the first k of its K slots. Empty slots are
    zero."""
    shape = next((row.shape[1:] for row in rows if len(row)), rows[0].shape[1:])
    slots = torch.zeros(*present.shape, *shape)
    for slot, row in zip(slots, rows, strict=True):
        slot[: len(row)] = row
    return slots


def _count_bytes(encoded: EncodedReferences) -> int:
    return sum(tensor.nbytes for field in encoded for tensor in field)
