"""Tests the identity metrics by hand, and the network of the published Deg against a second implementation."""

from __future__ import annotations

import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch.nn import functional as F

from manifests.errors import BadInput
from tests.doubles.models.weights import random_resnet18_110
from train.metrics.identity import SAME_IMAGE_ANGLE, angle_degrees, id_references, id_target
from train.metrics.networks.deg_recognizer import (
    SCRIPT,
    STATE,
    FaceResNet18,
    explain_missing,
    load_deg_recognizer,
    prepare_input,
)

ROWS = arrays(np.float64, (3, 5), elements=st.floats(-1, 1)).filter(lambda rows: (np.abs(rows).max(1) > 0.1).all())


def test_by_hand() -> None:
    restored, target = np.array([[3.0, 4.0], [1.0, 0.0]]), np.array([[1.0, 0.0], [0.0, 2.0]])
    assert id_target(restored, target) == pytest.approx([0.6, 0.0], abs=1e-12)
    assert angle_degrees(restored, target) == pytest.approx([math.degrees(math.acos(0.6)), 90], abs=1e-10)
    references = [np.array([[1.0, 0.0], [0.0, 1.0]]), np.zeros((0, 2))]
    found = id_references(restored, references)
    assert found[0] == pytest.approx((0.6 + 0.8) / 2) and math.isnan(found[1])


@given(ROWS, ROWS)
def test_an_angle_is_the_arc_cosine_from_either_side(a: np.ndarray, b: np.ndarray) -> None:
    found = angle_degrees(a, b)
    assert found == pytest.approx(angle_degrees(b, a), abs=1e-9)
    np.testing.assert_allclose(np.cos(np.radians(found)), id_target(a, b), atol=1e-9)
    assert angle_degrees(a, 7 * a) == pytest.approx([0] * 3, abs=1e-6)


@given(ROWS, ROWS)
def test_a_mean_over_references_is_between_the_nearest_and_the_farthest(a: np.ndarray, b: np.ndarray) -> None:
    every = [id_target(np.repeat(row[None], 3, 0), b) for row in a]
    for found, alone in zip(id_references(a, [b] * 3), every, strict=True):
        assert min(alone) - 1e-12 <= found <= max(alone) + 1e-12


def test_pairs_under_one_degree_are_left_out_where_that_is_the_convention() -> None:
    at = [0.0, 0.99, 1.01, 30.0]
    target = np.array([[math.cos(math.radians(angle)), math.sin(math.radians(angle))] for angle in at])
    restored = np.tile([1.0, 0.0], (4, 1))
    assert angle_degrees(restored, target) == pytest.approx(at, abs=1e-9)
    published = angle_degrees(restored, target, SAME_IMAGE_ANGLE)
    assert [math.isnan(one) for one in published] == [True, True, False, False]


# --- the published Deg ---


def normalised(x: torch.Tensor, state: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    mean, var, scale, shift = (state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
    shape = (1, -1, 1, 1) if x.ndim == 4 else (1, -1)
    return (x - mean.view(shape)) / (var.view(shape) + 1e-5).sqrt() * scale.view(shape) + shift.view(shape)


def leaky(x: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
    return torch.where(x > 0, x, slope * x)


def resnet_face18(state: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """Computes the forward pass of the public scripts with the tensors of `state`."""
    x = F.conv2d(x, state["conv1.weight"], padding=1)
    x = F.max_pool2d(leaky(normalised(x, state, "bn1"), state["prelu.weight"]), 2, 2)
    for layer in (1, 2, 3, 4):
        for block in (0, 1):
            at = f"layer{layer}.{block}"
            stride = 2 if layer > 1 and block == 0 else 1
            inner = F.conv2d(normalised(x, state, f"{at}.bn0"), state[f"{at}.conv1.weight"], padding=1)
            inner = leaky(normalised(inner, state, f"{at}.bn1"), state[f"{at}.prelu.weight"])
            inner = normalised(F.conv2d(inner, state[f"{at}.conv2.weight"], None, stride, 1), state, f"{at}.bn2")
            if f"{at}.downsample.0.weight" in state:
                kept = F.conv2d(x, state[f"{at}.downsample.0.weight"], None, stride)
                x = normalised(kept, state, f"{at}.downsample.1")
            x = leaky(inner + x, state[f"{at}.prelu.weight"])
    x = normalised(x, state, "bn4").reshape(len(x), -1)
    return normalised(F.linear(x, state["fc5.weight"], state["fc5.bias"]), state, "bn5")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_resnet18_110(tmp_path_factory.mktemp("weights"))


def a_picture(seed: int, size: int = 200) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


def test_the_published_network_by_hand(weights: Path) -> None:
    state = {k.removeprefix("module."): v.float() for k, v in torch.load(weights / STATE, weights_only=True).items()}
    described = load_deg_recognizer(weights)
    found = np.stack([described(a_picture(seed)) for seed in range(2)])
    by_hand = torch.cat([resnet_face18(state, prepare_input(a_picture(seed))) for seed in range(2)]).numpy()
    np.testing.assert_allclose(angle_degrees(found[:1], found[1:]), angle_degrees(by_hand[:1], by_hand[1:]), atol=1e-4)
    np.testing.assert_allclose(found, by_hand, rtol=1e-4, atol=1e-4 * np.abs(by_hand).max())
    assert angle_degrees(found[:1], found[1:])[0] > 1


def test_it_sees_the_whole_crop_gray_at_128_px(tmp_path: Path) -> None:
    image = a_picture(0)
    cv2.imwrite(str(tmp_path / "crop.png"), image[:, :, ::-1])
    as_published = cv2.resize(cv2.imread(str(tmp_path / "crop.png"), 0), (128, 128)).astype(np.float32)
    found = prepare_input(image)
    assert found.shape == (1, 1, 128, 128)
    np.testing.assert_array_equal(found[0, 0].numpy(), (as_published - 127.5) / 127.5)


def test_torchscript_is_the_same(weights: Path, tmp_path: Path) -> None:
    network = FaceResNet18().eval()
    state = torch.load(weights / STATE, weights_only=True)
    network.load_state_dict({name.removeprefix("module."): value for name, value in state.items()})
    torch.jit.save(torch.jit.trace(network, torch.zeros(1, 1, 128, 128)), str(tmp_path / SCRIPT))
    assert explain_missing(tmp_path) is None
    np.testing.assert_allclose(
        load_deg_recognizer(tmp_path)(a_picture(3)), load_deg_recognizer(weights)(a_picture(3)), rtol=1e-4, atol=1e-4
    )


def test_missing_and_broken_weights_are_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    reason = explain_missing(tmp_path)
    assert reason is not None and reason.startswith(STATE) and reason.endswith("--weights FOLDER.")
    with pytest.raises(BadInput, match=r"^The published Deg cannot be computed: resnet18_110"):
        load_deg_recognizer(tmp_path)
    for content in ({"conv1.weight": torch.zeros(1)}, [1, 2]):
        torch.save(content, tmp_path / STATE)
        with pytest.raises(BadInput, match=r"does not contain the network of the recognizer") as caught:
            load_deg_recognizer(tmp_path)
        assert "\n" not in str(caught.value)
