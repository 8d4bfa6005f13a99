"""Tests the Fréchet distance against scipy's matrix root, and FID's network against the network of torch-fidelity."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch import nn

from manifests.errors import BadInput
from tests.doubles.frechet import frechet_distance
from tests.doubles.models.weights import random_inception
from train.metrics.fid.inception import INCEPTION, explain_missing, load_inception


class Features(nn.Module):
    """Computes 16 random features of a picture, uint8 (B, 3, 8, 8) -> (B, 16)."""

    num_features = 16

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.from_numpy(np.random.default_rng(0).normal(0, 0.02, (192, 16)))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.tanh((images.flatten(1).double() - 128) @ self.weight)


def a_set(count: int, low: int, high: int, seed: int) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).integers(low, high, (count, 8, 8, 3), dtype=np.uint8))


def by_scipy(one: list[np.ndarray], other: list[np.ndarray], network: nn.Module) -> float:
    both = [network(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)).double().numpy() for images in (one, other)]
    (m1, c1), (m2, c2) = ((found.mean(0), np.cov(found, rowvar=False)) for found in both)
    root = sqrtm(c1 @ c2)
    return float(((m1 - m2) ** 2).sum() + np.trace(c1 + c2 - 2 * np.real(root)))


@pytest.mark.parametrize(("ours", "theirs"), [(40, 60), (30, 30)])
def test_the_distance_is_scipys(ours: int, theirs: int) -> None:
    one, other = a_set(ours, 0, 256, 1), a_set(theirs, 40, 200, 2)
    found = frechet_distance(one, other, Features())
    assert found == pytest.approx(by_scipy(one, other, Features()), abs=1e-5) and found > 0.1
    assert frechet_distance(other, one, Features()) == pytest.approx(found, abs=1e-9)
    assert frechet_distance(one, reversed(one), Features()) == pytest.approx(0, abs=1e-5)


def test_it_grows_as_a_set_moves_away() -> None:
    target = a_set(40, 0, 200, 1)
    moved = [frechet_distance([image + step for image in target], target, Features()) for step in (0, 5, 20, 50)]
    assert moved == sorted(moved) and moved[0] < 1e-5 < moved[1]


def test_a_set_has_two_images_or_more() -> None:
    some = a_set(3, 0, 256, 0)
    for ours, theirs, said in ((some[:1], some, "1 restored"), (some, some[:1], "1 other"), ([], some, "0 restored")):
        with pytest.raises(BadInput, match=said):
            frechet_distance(ours, theirs, Features())


def test_missing_weights_are_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    reason = explain_missing(tmp_path)
    assert reason is not None and reason.startswith(INCEPTION[0]) and reason.endswith("--weights FOLDER.")
    with pytest.raises(BadInput, match=r"FID cannot be computed: pt_inception"):
        load_inception(tmp_path)


def test_a_file_that_is_no_inception_is_a_sentence(tmp_path: Path) -> None:
    torch.save({"fc.weight": torch.zeros(3)}, tmp_path / INCEPTION[1])
    assert explain_missing(tmp_path) is None
    with pytest.raises(BadInput, match="does not contain the Inception weights of FID"):
        load_inception(tmp_path)


@pytest.mark.slow
def test_the_network_is_torch_fidelitys_and_fid_is_the_distance_of_its_features(tmp_path: Path) -> None:
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    random_inception(tmp_path)
    theirs = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], str(tmp_path / INCEPTION[0]))
    rng = np.random.default_rng(0)
    one, other = (list(rng.integers(0, high, (4, 40, 40, 3), dtype=np.uint8)) for high in (256, 128))
    network = load_inception(tmp_path)
    for image in one[:2]:
        picture = torch.from_numpy(image).permute(2, 0, 1)[None]
        torch.testing.assert_close(network(picture), theirs(picture)[0], rtol=1e-5, atol=1e-5)
    found = frechet_distance(one, other, network)
    # Four points span only three directions, so the root of a 3 x 3 matrix is enough to compute the distance.
    features = [
        np.concatenate([theirs(torch.from_numpy(i).permute(2, 0, 1)[None])[0] for i in s]) for s in (one, other)
    ]
    a, b = (f.astype(float) for f in features)
    centred = [(f - f.mean(0)) / np.sqrt(3) for f in (a, b)]
    crossed = np.linalg.svd(centred[0] @ centred[1].T, compute_uv=False).sum()
    by_hand = ((a.mean(0) - b.mean(0)) ** 2).sum() + sum((c**2).sum() for c in centred) - 2 * crossed
    assert found == pytest.approx(by_hand, rel=1e-5)


@pytest.mark.slow
def test_the_network_and_the_resizing_are_pytorch_fids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pytorch_fid.inception

    state = torch.load(random_inception(tmp_path) / INCEPTION[0], weights_only=True)
    monkeypatch.setattr(
        pytorch_fid.inception,
        "load_state_dict_from_url",
        lambda *_, **__: {name: value.float() for name, value in state.items()},
    )
    theirs = pytorch_fid.inception.InceptionV3([3]).eval()
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, 64, 64), dtype=np.uint8))
    network = load_inception(tmp_path, "pytorch-fid")
    with torch.inference_mode():
        expected = theirs(images.float() / 255)[0].flatten(1)
        torch.testing.assert_close(network(images), expected, rtol=1e-4, atol=1e-4)
        assert (load_inception(tmp_path, "clean-fid")(images) - expected).abs().max() > 1e-2
