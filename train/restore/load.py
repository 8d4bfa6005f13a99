"""Load a restorer from a checkpoint with the face models that it was trained with, and run it on a batch."""

from __future__ import annotations

from pathlib import Path

import torch

from curate.faces.interface import FaceModels
from curate.faces.load import load_faces
from manifests.errors import BadInput
from train.models.restorer import Restorer
from train.models.steps import check_steps
from train.restore.reference_photos import References

RELEASED = "osdface:"  # before a folder with OSDFace's released weights, given as --run


def load_restorer(checkpoint: str | Path, base_model: str | None = None, steps: int = 1) -> Restorer:
    """A checkpoint folder, a RUN (its newest checkpoint), or osdface:FOLDER with OSDFace's released weights.

    `base_model` says where the diffusion model lies now; the released weights name none, so they need it. `steps` is
    how many a face is restored in, at most as many as it was trained for. Raises BadInput.
    """
    check_steps(steps)
    model = _opened(str(checkpoint), base_model)
    if steps > 1:
        model.take_steps(steps)
    return model


def _opened(name: str, base_model: str | None) -> Restorer:
    if not name.startswith(RELEASED):
        return Restorer.from_pretrained(Path(name), base_model)
    if base_model is None:
        raise BadInput(
            f"{name} needs the model that it was trained on: say --base-model FOLDER (Stable Diffusion 2.1-base in "
            "diffusers' layout)."
        )
    from train.models.released.osdface import load_osdface

    return load_osdface(Path(name.removeprefix(RELEASED)), base_model)


def move_to_device(model: Restorer) -> Restorer:
    """The restorer on the GPU, where there is one."""
    return model.to("cuda" if torch.cuda.is_available() else "cpu")


def load_restorer_faces(model: Restorer, spec: str | None) -> FaceModels:
    """The face models that a restorer was trained with; raises BadInput where the recognizer is another one.

    Released weights record none: any do then, to find faces by.
    """
    recorded = model.facts.get("recognizer")
    if recorded is None:
        return load_faces(spec or "auto")
    models = load_faces(spec or recorded["spec"])
    if models.recognizer_sha256() != recorded["sha256"]:
        raise BadInput(
            f"This restorer was trained with the recognizer of {recorded['spec']}, and {models.spec} holds another: "
            f"name the folder of the first with --faces."
        )
    return models


@torch.inference_mode()
def run_model(model: Restorer, lq: torch.Tensor, references: References) -> torch.Tensor:
    """One batch (B, 3, S, S) in 0..1 through the restorer, every image with the same references.

    Computed wherever the restorer is, from the CPU to the CPU.
    """
    batch, count, device = len(lq), len(references.crops), next(model.parameters(), lq).device
    restored = model(
        lq.to(device),
        references.crops.to(device).expand(batch, -1, -1, -1, -1),
        torch.ones(batch, count, dtype=torch.bool, device=device),
        references.embeddings.to(device).expand(batch, -1, -1),
    )
    return restored.image.cpu()
