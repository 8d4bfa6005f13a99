"""Tests that the torch engine runs every preset on the device alone, with noise of the right strength."""

import cv2
import numpy as np
import pytest
import torch

from degrade.engines import differentiable
from degrade.engines.differentiable import apply, degrade
from degrade.operations.apply import run_steps
from degrade.presets import PRESETS
from degrade.sampling import sample_theta
from degrade.theta import VERSION

RANDOM = ("noise", "poisson")


def picture(side: int = 64, seed: int = 0) -> np.ndarray:
    coarse = np.random.default_rng(seed).random((6, 6, 3), np.float32)
    return np.clip(cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC), 0, 1)


def batch(*pictures: np.ndarray) -> torch.Tensor:
    return torch.stack([torch.from_numpy(one).permute(2, 0, 1) for one in pictures])


def refuse(*_: object, **__: object) -> None:
    raise AssertionError("this ran on the CPU, or waited for the device")


def noise(strength: float, gray: bool = False, seed: int = 3, op: str = "noise") -> dict:
    number = {"sigma": strength} if op == "noise" else {"scale": strength}
    return {"version": VERSION, "steps": [{"op": op, **number, "gray": gray, "seed": seed}]}


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_no_preset_waits_for_the_device_or_uses_the_exact_engine(preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    thetas = [sample_theta(PRESETS[preset], seed, "face") for seed in range(2)]
    hq = batch(*(picture(seed=seed) for seed in range(2)))
    monkeypatch.setattr(differentiable, "iterate_steps", refuse)
    monkeypatch.setattr(np.random, "PCG64", refuse)
    for reads in ("new_tensor", "item", "tolist", "cpu", "numpy", "__bool__"):  # on a GPU, these make the CPU wait
        monkeypatch.setattr(torch.Tensor, reads, refuse)
    lq = degrade(hq, thetas, device_noise=True)
    monkeypatch.undo()
    again = apply(hq, thetas, device_noise=True)
    assert lq.shape == hq.shape and torch.equal(lq, again)  # the noise depends only on the seed of the step
    assert torch.equal((lq * 255).round() / 255, lq) and not torch.equal(lq, hq)


@pytest.mark.parametrize("preset", sorted(set(PRESETS) - {"real-esrgan"}))
def test_all_steps_except_the_noise_stay_the_same(preset: str) -> None:
    thetas = [sample_theta(PRESETS[preset], seed, "face") for seed in range(2)]
    for theta in thetas:
        theta["steps"] = [step for step in theta["steps"] if step["op"] not in RANDOM]
    hq = batch(*(picture(seed=seed) for seed in range(2)))
    assert torch.equal(apply(hq, thetas, device_noise=True), apply(hq, thetas))


@pytest.mark.parametrize("gray", [False, True])
@pytest.mark.parametrize(("op", "strength"), [("noise", 8.0), ("poisson", 0.5)])
def test_noise_is_as_strong_as_in_the_exact_engine(op: str, strength: float, gray: bool) -> None:
    hq = 0.3 + 0.4 * picture(128)
    theta = noise(strength, gray, op=op)
    exact = run_steps(hq, theta["steps"]) - hq
    (image,) = differentiable.run_steps(batch(hq), [theta], device_noise=True)
    ours = image.permute(1, 2, 0).numpy() - hq
    assert abs(ours.mean()) * 255 < 0.3 and ours.std() == pytest.approx(exact.std(), rel=0.03)
    # Poisson noise is stronger where the image is lighter. The test compares the lighter half of the pixels with the
    # darker half.
    light = hq.mean(2) > np.median(hq.mean(2))
    assert ours[light].std() / ours[~light].std() == pytest.approx(exact[light].std() / exact[~light].std(), rel=0.06)
    assert (np.ptp(ours, axis=2).max() < 1e-6) == gray
    assert not np.array_equal(ours, exact)


def test_another_seed_gives_other_noise_and_images_of_a_batch_do_not_share_it() -> None:
    hq = batch(picture(), picture())
    one, other = apply(hq, [noise(8.0, seed=1), noise(8.0, seed=2)], device_noise=True)
    assert not torch.equal(one, other)
    assert torch.equal(apply(hq[:1], [noise(8.0, seed=2)], device_noise=True)[0], other)


def test_the_gradient_treats_device_noise_as_a_constant() -> None:
    hq = (0.3 + 0.4 * batch(picture())).requires_grad_()
    for op in RANDOM:
        (gradient,) = torch.autograd.grad(apply(hq, [noise(0.5, op=op)], device_noise=True).sum(), hq)
        assert torch.equal(gradient, torch.ones_like(hq))
