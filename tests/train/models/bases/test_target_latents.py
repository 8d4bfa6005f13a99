"""Tests that the latent of a target is computed once, and that keeping latents or activations changes no result."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from manifests.errors import BadInput
from tests.doubles.models.stable_diffusion import SHALLOW, write_mini_sd
from tests.doubles.training import DIM, SMALL, small, snapshot
from train.data.dataset import TrainingFaces, collate
from train.data.snapshot import Snapshot
from train.data.to_device import to_device
from train.fit.engine import build
from train.fit.settings import Settings, resolve_settings
from train.fit.steps.step import compute_gradients
from train.models.bases.target_latents import TargetLatents
from train.recipes.recipes import DIFFUSION

CPU = torch.device("cpu")
IDM = small("idm", DIFFUSION)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_mini_sd(tmp_path_factory.mktemp("sd"), SHALLOW))


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    return snapshot(tmp_path_factory.mktemp("latents"), size=IDM.size, upsample=8.0)


def encoder() -> tuple[list[int], Any]:
    calls: list[int] = []

    def encode(images: torch.Tensor) -> torch.Tensor:
        calls.append(len(images))
        return images.mean((2, 3), keepdim=True).to(torch.bfloat16)

    return calls, encode


def hashed(*numbers: int) -> dict[str, torch.Tensor]:
    targets = torch.stack([torch.full((3, 4, 4), number / 16) for number in numbers])
    return {"target": targets, "target_hash": torch.tensor([[number, 7] for number in numbers])}


def test_each_target_is_encoded_once_and_alone() -> None:
    calls, encode = encoder()
    latents = TargetLatents(encode)
    first = latents.encode(hashed(1, 2))
    assert torch.equal(
        latents.encode(hashed(2, 3, 1)), torch.stack([first[1], torch.full((3, 1, 1), 3 / 16), first[0]])
    )
    assert calls == [1, 1, 1] and first.dtype == torch.float32


def test_a_full_memory_keeps_the_latents_it_has() -> None:
    calls, encode = encoder()
    latents = TargetLatents(encode, capacity=2 * 12)  # a latent has 3 numbers of 4 bytes
    for _ in range(2):
        assert torch.equal(latents.encode(hashed(1, 2, 3))[:, 0, 0, 0], torch.tensor([1, 2, 3]) / 16)
    assert len(calls) == 4
    calls.clear()
    unknown = {"target": hashed(1)["target"]}
    assert torch.equal(latents.encode(unknown), latents.encode(unknown)) and len(calls) == 2


def test_kept_latents_and_kept_activations_change_no_step(base: str, faces: Snapshot) -> None:
    made = TrainingFaces(faces, IDM, 0)
    batch = to_device(collate([made[index] for index in range(2)]), CPU)
    figures = []
    for keeps in (True, False):
        settings = Settings(base_model=base, keep_activations=keeps)
        engine = build(IDM, DIM, 0, settings, "fp32", None)
        assert engine.model.base.unet.is_gradient_checkpointing != keeps
        assert engine.model.base.vae.is_gradient_checkpointing != keeps
        assert engine.latents is not None
        if not keeps:
            engine = replace(engine, latents=TargetLatents(engine.model.base.encode, capacity=0))
        figures.append([compute_gradients(engine, [batch], 2 * step, 0) for step in range(2)])
        assert bool(engine.latents._latents) == keeps  # type: ignore[union-attr]
    for kept, computed in zip(*figures, strict=True):
        assert {name: float(value) for name, value in kept.items()} == pytest.approx(
            {name: float(value) for name, value in computed.items()}, rel=1e-5
        )
    assert figures[0][0]["loss"] == figures[1][0]["loss"]


def test_two_targets_with_other_pixels_have_other_hashes(faces: Snapshot) -> None:
    made = TrainingFaces(faces, IDM, 0)
    hashes = {}
    for index in range(3 * len(made.targets)):
        item = made[index]
        hashes.setdefault(tuple(item["target_hash"].tolist()), set()).add(item["target"].numpy().tobytes())
    assert all(len(pixels) == 1 for pixels in hashes.values())
    assert len(made.targets) < len(hashes) <= 2 * len(made.targets)  # most targets were drawn both plain and mirrored
    assert "target_hash" not in TrainingFaces(faces, replace(SMALL, size=IDM.size), 0)[0]


def test_only_a_diffusion_model_can_keep_its_activations() -> None:
    with pytest.raises(BadInput, match="leave --keep-activations out"):
        resolve_settings(SMALL, Settings(keep_activations=True))
