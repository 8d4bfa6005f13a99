"""Tests PSNR, SSIM and MS-SSIM against scikit-image and against their formulas."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from scipy.ndimage import correlate
from skimage.color import rgb2ycbcr
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torchvision.transforms import functional

from train.data.tensors import to_tensor
from train.losses.pixel import ms_ssim_exponents
from train.metrics.psnr_ssim import crop_border, ms_ssim, psnr, psnr_y, ssim, ssim_y, to_luma, vif


def pictures(size: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Returns a picture with noise, and the same picture without noise, uint8 (S, S, 3)."""
    rng = np.random.default_rng(seed)
    smooth = np.kron(rng.uniform(30, 220, (size // 8, size // 8, 3)), np.ones((8, 8, 1)))
    noisy = smooth + rng.normal(0, 12, smooth.shape)
    return tuple(np.clip(one + 0.5, 0, 255).astype(np.uint8) for one in (noisy, smooth))  # type: ignore[return-value]


def tensors(pairs: list[tuple[np.ndarray, np.ndarray]]) -> tuple[torch.Tensor, torch.Tensor]:
    restored, target = zip(*pairs, strict=True)
    return torch.stack([to_tensor(one) for one in restored]), torch.stack([to_tensor(one) for one in target])


PAIRS = [pictures(64, seed) for seed in range(3)]


def test_psnr_is_scikit_images() -> None:
    by_skimage = [peak_signal_noise_ratio(target, restored, data_range=255) for restored, target in PAIRS]
    assert psnr(*tensors(PAIRS)) == pytest.approx(by_skimage, abs=1e-5)


def test_ssim_is_scikit_images_with_wangs_settings() -> None:
    by_skimage = [
        structural_similarity(
            target,
            restored,
            channel_axis=2,
            data_range=255,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        for restored, target in PAIRS
    ]
    assert ssim(*tensors(PAIRS)) == pytest.approx(by_skimage, abs=1e-5)


def check_luma(pairs: list[tuple[np.ndarray, np.ndarray]]) -> None:
    """Compares PSNR and SSIM of Y with scikit-image, whose conversion to Y is the same as BasicSR's."""
    lumas = [[rgb2ycbcr(image)[..., 0] for image in pair] for pair in pairs]
    expected = [peak_signal_noise_ratio(target, restored, data_range=255) for restored, target in lumas]
    assert psnr_y(*tensors(pairs)) == pytest.approx(expected, abs=1e-4)
    settings = {"data_range": 255, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    similar = [structural_similarity(target, restored, **settings) for restored, target in lumas]
    assert ssim_y(*tensors(pairs)) == pytest.approx(similar, abs=1e-4)


def test_psnr_and_ssim_of_the_luma_are_scikit_images() -> None:
    check_luma(PAIRS)
    white = to_luma(torch.tensor([1.0, 1.0, 1.0])[None, :, None, None])
    assert white.item() * 255 == pytest.approx(235) and to_luma(torch.zeros(1, 3, 1, 1)).item() * 255 == pytest.approx(
        16
    )


def test_basicsr_has_the_same_figures_with_and_without_a_border(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("basicsr")
    # BasicSR imports a module that torchvision 0.17 removed.
    monkeypatch.setitem(sys.modules, "torchvision.transforms.functional_tensor", functional)
    from basicsr.metrics.psnr_ssim import calculate_psnr, calculate_ssim

    bgr = [[image[..., ::-1] for image in pair] for pair in PAIRS]
    for border in (0, 4):
        cut = [crop_border(images, border) for images in tensors(PAIRS)]
        for by_basicsr, ours in ((calculate_psnr, psnr_y), (calculate_ssim, ssim_y)):
            expected = [by_basicsr(*pair, crop_border=border, test_y_channel=True) for pair in bgr]
            assert ours(*cut) == pytest.approx(expected, abs=1e-4)
        for by_basicsr, ours in ((calculate_psnr, psnr), (calculate_ssim, ssim)):
            expected = [by_basicsr(*pair, crop_border=border) for pair in bgr]
            assert ours(*cut) == pytest.approx(expected, abs=1e-4)


@pytest.mark.shared_data
def test_photos_have_scikit_images_figures(shared_data: Path) -> None:
    pairs = []
    for path in sorted((shared_data / "people_crops").glob("*/*.jpg"))[::600]:
        photo = cv2.imread(str(path))[:, :, ::-1].copy()
        pairs.append((cv2.GaussianBlur(photo, (0, 0), 2), photo))
    check_luma(pairs)
    by_skimage = [peak_signal_noise_ratio(target, restored, data_range=255) for restored, target in pairs]
    assert psnr(*tensors(pairs)) == pytest.approx(by_skimage, abs=1e-4)
    settings = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    similar = [
        structural_similarity(target, restored, channel_axis=2, data_range=255, **settings)
        for restored, target in pairs
    ]
    assert ssim(*tensors(pairs)) == pytest.approx(similar, abs=1e-4)


def ms_ssim_by_hand(restored: np.ndarray, target: np.ndarray) -> float:
    """Computes MS-SSIM (Wang et al. 2003) in numpy, as the mean over channels.

    Every scale contributes a term for contrast and structure. Only the last scale contributes a term for luminance.
    """
    x = np.arange(-5, 6)
    window = np.outer(np.exp(-(x**2) / 4.5), np.exp(-(x**2) / 4.5))
    window /= window.sum()
    exponents = ms_ssim_exponents(len(restored))
    a, b = (one.astype(float).transpose(2, 0, 1) / 255 for one in (restored, target))
    found = 1.0
    for scale, exponent in enumerate(exponents):
        terms = []
        for p, q in zip(a, b, strict=True):
            p_, q_, pp, qq, pq = (correlate(one, window, mode="mirror") for one in (p, q, p * p, q * q, p * q))
            term = (2 * (pq - p_ * q_) + 0.03**2) / (pp - p_**2 + qq - q_**2 + 0.03**2)
            if scale == len(exponents) - 1:
                term = term * (2 * p_ * q_ + 0.01**2) / (p_**2 + q_**2 + 0.01**2)
                terms.append(term)  # as in torchmetrics, borders count only at the last scale
            else:
                terms.append(term[5:-5, 5:-5])
        found *= np.mean(terms) ** exponent
        if scale == len(exponents) - 1:
            break
        a, b = (one.reshape(3, one.shape[1] // 2, 2, -1, 2).mean((2, 4)) for one in (a, b))
    return float(found)


@pytest.mark.parametrize("size", [64, 128, 176])
def test_ms_ssim_is_the_formula(size: int) -> None:
    pairs = [pictures(size, seed) for seed in range(2)]
    assert ms_ssim(*tensors(pairs)) == pytest.approx([ms_ssim_by_hand(*pair) for pair in pairs], abs=1e-5)
    assert len(ms_ssim(*tensors(pairs[:1]))) == 1


def test_the_target_itself_is_the_best_there_is() -> None:
    _, target = tensors(PAIRS)
    assert psnr(target, target) == [100.0] * 3
    assert ssim(target, target) == pytest.approx([1] * 3, abs=1e-5)
    assert ms_ssim(target, target) == pytest.approx([1] * 3, abs=1e-4)


def test_psnr_is_what_the_formula_says_for_each_image() -> None:
    target = torch.zeros(2, 3, 16, 16)
    restored = torch.stack([torch.full((3, 16, 16), 0.1), torch.full((3, 16, 16), 0.5)])
    assert psnr(restored, target) == pytest.approx([20.0, -10 * math.log10(0.25)], abs=1e-4)
    assert psnr(target, target) == [100.0, 100.0]


def test_ssim_of_equal_images_is_one_and_falls_with_noise() -> None:
    torch.manual_seed(0)
    image = torch.rand(2, 3, 32, 32)
    assert ssim(image, image) == pytest.approx([1.0, 1.0])
    noisy = (image + 0.2 * torch.randn_like(image)).clamp(0, 1)
    assert len(ssim(noisy, image)) == 2 and max(ssim(noisy, image)) < 0.95
    assert len(ssim(image[:1], image[:1])) == 1


def test_vif_falls_with_noise_and_blur_and_is_one_for_equal_images() -> None:
    torch.manual_seed(0)
    image = torch.nn.functional.avg_pool2d(torch.rand(2, 3, 130, 130), 3, 1)
    noisy, noisier = ((image + sd * torch.randn_like(image)).clamp(0, 1) for sd in (0.02, 0.1))
    blurred = torch.nn.functional.avg_pool2d(image, 5, 1, 2)
    assert vif(image, image) == pytest.approx([1.0, 1.0])
    for worse, better in ((noisier, noisy), (noisy, image), (blurred, image)):
        assert all(low < high - 0.02 for low, high in zip(vif(worse, image), vif(better, image), strict=True))
    assert vif(noisy, image)[1:] == pytest.approx(vif(noisy[1:], image[1:]))
