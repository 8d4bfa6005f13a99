"""Opens the restorer that `--run` names: a restorer of torch, or one of ONNX files, for which torch is not imported."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from manifests.errors import BadInput
from train.models.config import check_precision, check_steps
from train.restore.restorers.exported.manifest import ONNX, strip_prefix
from train.restore.restorers.face_restorer import FaceRestorer, check_seed


def open_restorer(
    checkpoint: Path,
    base_model: str | None = None,
    steps: int = 1,
    seed: int | None = None,
    precision: str | None = None,
    say: Callable[[str], None] = lambda _: None,
    device: str | None = None,
) -> FaceRestorer:
    """Returns the restorer for `restore`.

    `checkpoint`, `base_model`, `steps` and `seed` are as in `load_restorer` (train/restore/restorers/load_restorer.py),
    and `precision` and `say` are as in `choose_precision`. `device` is cpu or cuda. If `device` is None, a restorer of
    torch uses the GPU if there is one. Raises BadInput if the restorer cannot be loaded with these arguments.
    """
    check_precision(precision)
    if str(checkpoint).startswith(ONNX):
        check_steps(steps, denoise=False)
        check_seed(seed, draws_noise=False)
        if base_model is not None:
            raise BadInput(f"{checkpoint} needs no diffusion model: leave --base-model out.")
        if precision is not None:
            raise BadInput(f"{checkpoint} computes in fp32: leave --precision out.")
        from train.restore.restorers.exported.onnx_restorer import load_onnx_restorer

        return load_onnx_restorer(strip_prefix(checkpoint))
    from train.restore.restorers.load_restorer import load_restorer, move_to_device, prepare_restorer  # imports torch

    model = move_to_device(load_restorer(checkpoint, base_model, steps, seed), device)
    return prepare_restorer(model, precision, say)
