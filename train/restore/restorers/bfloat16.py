"""Decides whether a restorer on a CPU computes in bfloat16 if the user does not choose a precision.

The decision depends only on the CPU and on the restorer, and not on the photos or on a measured time. The same command
therefore gives the same bytes on the same machine.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from manifests.pictures.images import decode
from train.data.tensors import to_tensor
from train.recipes.recipes import DIFFUSION
from train.restore.restorers.face_restorer import needs_reference

# bfloat16 is chosen only if the mean difference from float32 is below this number of levels of 0..255 (issue 22).
MOST_LEVELS = 1.0
# A face of 128 x 128 px from NASA's portrait of Eileen Collins, a picture of scikit-image in the public domain. At this
# size (ours), the test is sixteen times as fast as at 512 px.
TEST_FACE = Path(__file__).with_name("astronaut.png")


def has_bfloat16() -> bool:
    """Returns whether the CPU multiplies in bfloat16 (AVX-512 BF16, and on some CPUs also AMX)."""
    return bool(torch.cpu._is_avx512_bf16_supported())


def prefers_bfloat16(model: Any) -> tuple[bool, float | None]:
    """Returns whether a restorer on the CPU computes in bfloat16, and the result of `measure_levels` or None.

    A restorer is measured if it has a diffusion base (ours), the CPU has bfloat16, and the restorer does not need a
    reference. The result for any other restorer is (False, None). On base tiny, bfloat16 would save less than a tenth
    of the time of `restore`, and float32 gives the same result on more CPUs.
    """
    if model.config.base != DIFFUSION or needs_reference(model.facts) or not has_bfloat16():
        return False, None
    levels = measure_levels(model)
    return levels < MOST_LEVELS, levels


@torch.inference_mode()
def measure_levels(model: Any) -> float:
    """Returns the mean difference between TEST_FACE restored in bfloat16 and in float32, in levels of 0..255.

    The face is restored without references. The result is infinity if an output contains NaN or infinity.
    """
    face = to_tensor(decode(TEST_FACE))[None]
    nobody = face.new_zeros(1, 0, *face.shape[1:]), torch.ones(1, 0, dtype=torch.bool)
    embeddings = face.new_zeros(1, 0, model.config.embedding_dim)
    images = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            # A call of `forward` skips the hooks of the restorer. OSDFace's hook would resize the face.
            images.append(model.forward(face, *nobody, embeddings).image.float())
    levels = float((images[0] - images[1]).abs().mean()) * 255
    return levels if levels == levels else float("inf")
