"""Compares LPIPS and DISTS with torchmetrics. Likeness and torchmetrics use the same random backbones."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torchmetrics.functional.image.dists
import torchvision
from torchmetrics.functional.image import (
    deep_image_structure_and_texture_similarity,
    learned_perceptual_image_patch_similarity,
)

from tests.doubles.models.weights import random_alexnet, random_vgg16
from train.losses.backbones import load_backbone
from train.metrics.networks.lpips_dists import BACKBONE, explain_missing, load_metric


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_alexnet(random_vgg16(tmp_path_factory.mktemp("weights")))


def pair(size: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(size)
    restored, target = (torch.randint(0, 256, (2, 3, size, size), generator=generator) / 255 for _ in range(2))
    return restored, target


@pytest.mark.parametrize(("name", "net"), [("lpips", "vgg"), ("lpips_alex", "alex")])
def test_lpips_is_torchmetrics(weights: Path, monkeypatch: pytest.MonkeyPatch, name: str, net: str) -> None:
    features = load_backbone(BACKBONE[name], weights)
    monkeypatch.setattr(torchvision.models, BACKBONE[name], lambda weights=None: SimpleNamespace(features=features))
    restored, target = pair(64)
    theirs = learned_perceptual_image_patch_similarity(restored, target, net_type=net, reduction="none", normalize=True)
    ours = load_metric(name, features)(restored, target)
    assert ours == pytest.approx(theirs.flatten().tolist(), abs=1e-5) and min(ours) > 0
    assert load_metric(name, features)(target, target) == [0.0, 0.0]


def test_dists_is_torchmetrics(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    features = load_backbone("vgg16", weights)
    monkeypatch.setattr(
        torchmetrics.functional.image.dists, "vgg16", lambda weights=None: SimpleNamespace(features=features)
    )
    restored, target = pair(48)
    theirs = deep_image_structure_and_texture_similarity(restored, target)
    assert load_metric("dists", features)(restored, target) == pytest.approx(theirs.tolist(), abs=1e-5)
    assert load_metric("dists", features)(target, target) == pytest.approx([0, 0], abs=1e-6)


def test_missing_weights_are_a_sentence_and_no_download(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *_, **__: pytest.fail("a download"))
    for name, file in (
        ("lpips", "vgg16-397923af"),
        ("dists", "vgg16-397923af"),
        ("lpips_alex", "alexnet-owt-7be5be79"),
    ):
        reason = explain_missing(name, tmp_path)
        assert reason is not None and reason.startswith(f"{file}.pth") and reason.endswith("--weights FOLDER.")
        assert "\n" not in reason and "https://" in reason and explain_missing(name, None) == reason
        assert explain_missing(name, weights) is None
