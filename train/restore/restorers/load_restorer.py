"""Load a restorer of torch, and run the restorer on a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from manifests.errors import BadInput
from train.data.mesh import MESH, check_landmark_model
from train.data.tensors import to_tensor, to_tensors
from train.models.config import check_steps
from train.models.released import INSTANTRESTORE, OSDFACE, PREFIXES, REFINEFIR
from train.models.restorer import Restorer
from train.recipes.recipes import DIFFUSION
from train.restore.references.reference_photos import References
from train.restore.restorers.batch_size import find_batch_size
from train.restore.restorers.exported.manifest import ONNX
from train.restore.restorers.face_restorer import FaceRestorer, check_seed
from train.restore.restorers.run_restorer import (
    ReferenceCache,
    can_encode_once,
    choose_precision,
    find_device,
    leave_cores,
    run_batch,
)


def load_restorer(
    checkpoint: str | Path, base_model: str | None = None, steps: int = 1, seed: int | None = None
) -> Restorer:
    """Loads a restorer from a checkpoint folder, from the newest checkpoint of a run, or from released weights.

    The released weights are osdface:FOLDER, refinefir:FOLDER and instantrestore:FOLDER. `base_model` is the folder of
    the diffusion model. This folder is needed for osdface: and instantrestore:, and for a restorer whose diffusion
    model was moved. `steps` is the number of steps of a restoration, which can be above 1 only for a denoiser. `seed`
    is the seed of the noise, and None means 0. Noise is drawn only for a denoiser and for `instantrestore:`. Raises
    BadInput if the restorer cannot be loaded with these arguments.
    """
    check_steps(steps)
    model = _load(str(checkpoint), base_model, seed)
    if MESH in model.config.parts:
        check_landmark_model("This restorer")
    if model.config.denoise:
        model.set_sampling(steps, seed or 0)
        return model
    check_steps(steps, denoise=False)
    check_seed(seed, str(checkpoint).startswith(INSTANTRESTORE))
    return model


def _load(name: str, base_model: str | None, seed: int | None) -> Restorer:
    if name.startswith(ONNX):
        raise BadInput(f"{name} has ONNX files, which only `likeness restore` runs: give the folder of the run.")
    instantrestore = name.startswith(INSTANTRESTORE)
    if not name.startswith(PREFIXES):
        return Restorer.from_pretrained(Path(name), base_model)
    check_seed(seed, instantrestore)
    if name.startswith(REFINEFIR):
        if base_model is not None:
            raise BadInput(f"{name} needs no diffusion model: leave --base-model out.")
        from train.models.released.refinefir import load_refinefir

        return load_refinefir(Path(name.removeprefix(REFINEFIR)))
    if base_model is None:
        needed = "sd-turbo" if instantrestore else "Stable Diffusion 2.1-base"
        raise BadInput(
            f"{name} needs the diffusion model {needed} in the layout of diffusers: give its folder with --base-model."
        )
    if instantrestore:
        from train.models.released.instantrestore import load_instantrestore

        return load_instantrestore(Path(name.removeprefix(INSTANTRESTORE)), base_model, seed or 0)
    from train.models.released.osdface import load_osdface

    return load_osdface(Path(name.removeprefix(OSDFACE)), base_model)


def move_to_device(model: Restorer, device: str | None = None) -> Restorer:
    """Moves the restorer to a device, cpu or cuda, and returns the restorer.

    If `device` is None, the device is the GPU, or the CPU if CUDA is not available. Raises BadInput if the device is
    cuda, and CUDA is not available.
    """
    has_gpu = torch.cuda.is_available()
    if device == "cuda" and not has_gpu:
        raise BadInput("torch finds no GPU. Install a torch for this GPU, or use a machine with a GPU.")
    return model.to(device or ("cuda" if has_gpu else "cpu"))


def speed_up_on_cpu(model: Restorer, precision: str = "fp32") -> Restorer:
    """Makes a restorer on a diffusion base faster, if it is on the CPU. Other restorers are not changed.

    `precision`, fp32 or bf16, is the precision in which the restorer will compute. Do not train or save the restorer
    afterwards (train/models/bases/fast_inference.py).
    """
    if model.config.base == DIFFUSION and next(model.parameters()).device.type == "cpu":
        from train.models.bases.fast_inference import speed_up  # imports peft, which base tiny does not need

        speed_up(model, precision == "bf16")
    return model


def prepare_restorer(
    model: Restorer, precision: str | None = None, say: Callable[[str], None] = lambda _: None
) -> FaceRestorer:
    """Returns `model`, which runs in torch, as a restorer for `restore`. `precision` and `say` are as in
    `choose_precision`."""
    precision = choose_precision(model, precision, say)
    return wrap_restorer(speed_up_on_cpu(model, precision), precision, shares_cores=True)


def wrap_restorer(model: Restorer, precision: str, shares_cores: bool) -> FaceRestorer:
    """Returns a restorer of torch that computes in `precision`: fp32 or bf16.

    `shares_cores` is True if other threads need cores while the network computes. The weights of the restorer must not
    change afterwards.
    """
    cache = ReferenceCache(model) if can_encode_once(model) else None

    def restore_crops(crops: Sequence[np.ndarray], references: Sequence[References]) -> np.ndarray:
        with leave_cores(model) if shares_cores else nullcontext():
            restored = run_batch(model, to_tensors(np.stack(crops)), references, precision, cache)
        return (restored * 255).permute(0, 2, 3, 1).contiguous().numpy()

    return FaceRestorer(
        model.config,
        model.facts,
        model.seed,
        restore_crops,
        lambda references: embed_references(model, references),
        precision,
        lambda: find_batch_size(model, precision),
        find_device(model).type,
    )


def run_model(model: Restorer, lq: torch.Tensor, references: References) -> torch.Tensor:
    """Restores images (B, 3, S, S) in 0..1 in float32, and returns the restored images, of the same shape.

    All images get the same references. The input and the result are on the CPU, and the restorer computes on its own
    device.
    """
    return run_batch(model, lq, [references] * len(lq))


def restore_crop(model: Restorer, crop: np.ndarray, references: References) -> np.ndarray:
    """Restores one crop, uint8 (S, S, 3), and returns the restored crop, float32 (S, S, 3) in 0..255, not rounded.

    Raises BadInput if the result contains NaN or infinity.
    """
    restored = run_model(model, to_tensor(crop)[None], references)[0]
    if not bool(torch.isfinite(restored).all()):
        raise BadInput("the restored face contains NaN or infinity")
    return np.ascontiguousarray((restored.float() * 255).permute(1, 2, 0).numpy())


def embed_references(model: Restorer, references: References) -> References:
    """Returns the references with the embeddings that the restorer reads.

    If the restorer has an identity encoder (ReFineFIR), it embeds the crops again, before they are warped. Other
    restorers read the embeddings of the recognizer.
    """
    if model.identity_encoder is None or not len(references.crops):
        return references
    device = next(model.parameters()).device
    with torch.inference_mode():
        embeddings = model.identity_encoder(to_tensors(references.crops).to(device)).cpu().numpy()
    return replace(references, embeddings=embeddings)
