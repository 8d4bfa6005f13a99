"""Tests every loss against a calculation by hand."""

import copy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchmetrics.functional.image
import torchmetrics.functional.image.dists
import torchvision
from scipy.ndimage import correlate
from torchmetrics.functional.image import (
    deep_image_structure_and_texture_similarity,
    learned_perceptual_image_patch_similarity,
)

from degrade.operations.apply import apply
from degrade.operations.pixels import to_float
from degrade.presets import find_preset
from tests.doubles.models.weights import random_vgg16
from train.losses.against_references import cycle_loss, spatial_min_loss
from train.losses.alignment import face_alignment_loss, make_region_masks
from train.losses.backbones import load_backbone
from train.losses.identity import identity_loss, identity_maps_loss, reference_identity_loss
from train.losses.perceptual import Dists, Lpips
from train.losses.pixel import (
    EXPONENTS,
    detail_loss,
    edge_loss,
    ms_ssim_exponents,
    ms_ssim_loss,
    mse_loss,
    pixel_loss,
    sobel_magnitude,
)


@pytest.fixture(scope="module")
def vgg16(tmp_path_factory: pytest.TempPathFactory) -> torch.nn.Sequential:
    return load_backbone("vgg16", random_vgg16(tmp_path_factory.mktemp("weights")))


def images(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


# --- pixels and edges ---


def test_pixel() -> None:
    a, b = torch.zeros(1, 3, 2, 2), torch.zeros(1, 3, 2, 2)
    b[0, 0, 0, 0] = 0.6
    assert float(pixel_loss(a, b)) == pytest.approx((0.6 - 0.05) / 12)
    b[0, 0, 0, 0] = 0.06  # below LARGE_DIFFERENCE, the loss is quadratic
    assert float(pixel_loss(a, b)) == pytest.approx(0.06**2 / 0.2 / 12)


def test_detail_sees_strength_and_not_place() -> None:
    image = images(1, 3, 32, 32)
    fine = torch.zeros(1, 3, 32, 32)
    fine[..., ::2] = 0.2
    flat = torch.full_like(fine, 0.1)
    assert float(detail_loss(image, image)) == 0
    # the loss ignores that the stripes moved by a pixel
    assert float(detail_loss(fine, fine.roll(1, -1))) == pytest.approx(0, abs=1e-6)
    # One image has no stripes. At the first of three scales, the stripes have the strength .1, which counts as .09.
    assert float(detail_loss(flat, fine)) == pytest.approx(0.09 / 3, rel=0.1)
    assert float(detail_loss(fine + 0.3, fine)) == pytest.approx(0, abs=1e-6)  # A change of brightness does not count.
    # The gradient is finite even if the picture has no detail.
    soft = torch.full_like(fine, 0.1, requires_grad=True)
    detail_loss(soft, fine).backward()
    assert soft.grad is not None and bool(torch.isfinite(soft.grad).all())


def test_mse() -> None:
    a, b = torch.zeros(1, 3, 2, 2), torch.zeros(1, 3, 2, 2)
    b[0, 0, 0, 0] = 0.6
    assert float(mse_loss(a, b)) == pytest.approx(0.36 / 12)


def test_edge_at_one_scale() -> None:
    # Between two columns, the picture steps up by .4. The gradient along x is .4 in every row. The loss counts it as .4
    # - .05 / 2 = .375. The gradient along y is 0.
    a, b = torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4)
    b[..., 2:] = 0.4
    assert float(edge_loss(a, b, scales=1)) == pytest.approx((0.375 / 3 + 0) / 2)


def test_edge_over_two_scales() -> None:
    a, b = torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4)
    b[..., 2:] = 0.4
    # At half size, each row has only two pixels, so the step is the only gradient along x.
    assert float(edge_loss(a, b, scales=2)) == pytest.approx((0.375 / 3 + 0.375) / 4)


def test_edge_ignores_brightness_and_sees_a_grid() -> None:
    image = torch.rand(1, 3, 16, 16)
    assert float(edge_loss(image, image + 0.1)) == pytest.approx(0, abs=1e-6)
    grid = image.clone()
    grid[..., ::4] += 0.1
    assert float(edge_loss(grid, image)) > 0.5 * float(pixel_loss(grid, image))


def test_sobel_magnitude() -> None:
    image = images(2, 3, 7, 9).double()
    kernel = np.array([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    for one, found in zip(image.numpy(), sobel_magnitude(image).numpy(), strict=True):
        gray = (one[0] + one[1] + one[2]) / 3
        along = [correlate(gray, k, mode="constant") for k in (kernel, kernel.T)]
        np.testing.assert_allclose(found[0], np.sqrt(along[0] ** 2 + along[1] ** 2 + 1e-6), atol=1e-12)


# --- identity ---


def test_identity() -> None:
    a = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    b = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert float(identity_loss(a, b)) == pytest.approx(0.5)


def test_identity_maps_is_near_the_mean_of_one_minus_cosine_and_ignores_lengths() -> None:
    draw = torch.Generator().manual_seed(0)
    ours, true = ([torch.randn(2, 64, s, s, generator=draw) for s in (8, 4)] for _ in range(2))
    cosines = [torch.cosine_similarity(a, b, dim=1).mean() for a, b in zip(ours, true, strict=True)]
    expected = 1 - float(sum(cosines)) / 2
    assert float(identity_maps_loss(ours, true)) == pytest.approx(expected, rel=0.03)
    assert float(identity_maps_loss([5 * values for values in ours], true)) == pytest.approx(expected, rel=0.03)
    assert float(identity_maps_loss(true, true)) == 0


def test_maps_without_any_signal_have_a_finite_gradient() -> None:
    empty = torch.zeros(1, 8, 4, 4, requires_grad=True)
    true = torch.ones(1, 8, 4, 4)
    identity_maps_loss([empty], [true]).backward()
    assert empty.grad is not None and empty.grad.isfinite().all() and 0 < float(empty.grad.abs().max()) < 1
    silent = torch.full((1, 8, 4, 4), 1e-4, requires_grad=True)
    identity_maps_loss([silent], [torch.zeros_like(true)]).backward()
    assert silent.grad is not None and silent.grad.isfinite().all()


def test_reference_identity_is_a_mean_over_the_usable_ones() -> None:
    restored = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    references = torch.tensor([[[0.6, 0.8], [0.0, 1.0]], [[0.0, -1.0], [1.0, 0.0]], [[0.0, 1.0], [0.0, 1.0]]])
    usable = torch.tensor([[True, True], [True, False], [False, False]])
    # Face 1 gives the mean of 1 - .6 and 1 - 0, face 2 gives 1 + 1, and face 3 has no usable reference.
    assert float(reference_identity_loss(restored, references, usable)) == pytest.approx((0.7 + 2 + 0) / 3)
    assert float(reference_identity_loss(restored, references[:, :0], usable[:, :0])) == 0


def test_an_empty_slot_may_hold_anything() -> None:
    restored = torch.tensor([[1.0, 0.0]], requires_grad=True)
    references = torch.tensor([[[0.6, 0.8], [torch.nan, torch.inf]]])
    loss = reference_identity_loss(restored, references, torch.tensor([[True, False]]))
    loss.backward()
    assert loss.item() == pytest.approx(0.4)
    torch.testing.assert_close(restored.grad, torch.tensor([[-0.6, -0.8]]))


# --- MS-SSIM ---


@pytest.mark.parametrize(
    ("size", "scales"), [(10, 0), (11, 1), (21, 1), (32, 2), (64, 3), (98, 3), (128, 4), (175, 4), (176, 5), (512, 5)]
)
def test_ms_ssim_has_as_many_scales_as_fit(size: int, scales: int) -> None:
    exponents = ms_ssim_exponents(size)
    assert len(exponents) == scales
    if scales:
        np.testing.assert_allclose(exponents, np.array(EXPONENTS[:scales]) / sum(EXPONENTS[:scales]))
        assert ms_ssim_loss(images(1, 3, size, size), images(1, 3, size, size, seed=1), exponents).isfinite()


def test_ms_ssim_by_hand() -> None:
    # A window has 11 px. At the fine scale, only contrast and structure count, and windows that cross the border are
    # left out. At the coarse scale, the luminance counts too, and windows at the border read a mirrored image.
    restored, target = (images(1, 3, 22, 22, seed=seed).double() for seed in (0, 1))
    target = 0.7 * restored + 0.3 * target
    x = np.arange(-5, 6)
    gauss = np.exp(-(x**2) / (2 * 1.5**2))
    window = np.outer(gauss, gauss) / gauss.sum() ** 2

    def parts(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        blur = [correlate(part, window, mode="mirror") for part in (a, b, a * a, b * b, a * b)]
        luminance = (2 * blur[0] * blur[1] + 0.01**2) / (blur[0] ** 2 + blur[1] ** 2 + 0.01**2)
        spread = blur[2] - blur[0] ** 2 + blur[3] - blur[1] ** 2
        contrast = (2 * (blur[4] - blur[0] * blur[1]) + 0.03**2) / (spread + 0.03**2)
        return luminance * contrast, contrast[5:-5, 5:-5]

    a, b = restored[0].numpy(), target[0].numpy()
    fine = np.mean([parts(a[c], b[c])[1] for c in range(3)])
    a, b = (part.reshape(3, 11, 2, 11, 2).mean((2, 4)) for part in (a, b))
    coarse = np.mean([parts(a[c], b[c])[0] for c in range(3)])
    first, second = ms_ssim_exponents(22)
    assert float(ms_ssim_loss(restored, target, (first, second))) == pytest.approx(
        1 - fine**first * coarse**second, abs=1e-7
    )


def test_ms_ssim_of_a_negative_is_one_and_its_gradient_finite() -> None:
    target = images(1, 3, 32, 32)
    restored = (1 - target).requires_grad_()
    loss = ms_ssim_loss(restored, target, ms_ssim_exponents(32))
    loss.backward()
    assert loss.item() == 1
    assert restored.grad is not None and restored.grad.isfinite().all()


# --- LPIPS and DISTS: VGG16 in numpy ---


def convolved(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    (_, h, w), padded = x.shape, np.pad(x, ((0, 0), (1, 1), (1, 1)))
    out = np.broadcast_to(bias[:, None, None], (len(weight), h, w)).copy()
    for row in range(3):
        for column in range(3):
            out += np.tensordot(weight[:, :, row, column], padded[:, row : row + h, column : column + w], 1)
    return out


def largest(x: np.ndarray) -> np.ndarray:
    c, h, w = x.shape
    return x.reshape(c, h // 2, 2, w // 2, 2).max((2, 4))


def root_mean_square(x: np.ndarray) -> np.ndarray:
    window = np.outer(np.hanning(5), np.hanning(5))
    squares = [correlate(channel**2, window / window.sum(), mode="constant")[::2, ::2] for channel in x]
    return np.sqrt(np.stack(squares) + 1e-12)


def layers_of(vgg16: torch.nn.Sequential, x: np.ndarray, pool) -> list[np.ndarray]:  # type: ignore[no-untyped-def]
    """Returns the output of each of the five blocks of VGG16, which have 2, 2, 3, 3 and 3 convolutions."""
    convolutions = iter([layer for layer in vgg16 if isinstance(layer, torch.nn.Conv2d)])
    tapped = []
    for block, count in enumerate((2, 2, 3, 3, 3)):
        x = pool(x) if block else x
        for _ in range(count):
            layer = next(convolutions)
            x = np.maximum(convolved(x, layer.weight.numpy().astype(float), layer.bias.numpy().astype(float)), 0)
        tapped.append(x)
    return tapped


def shipped(name: str) -> dict[str, np.ndarray]:
    path = Path(torchmetrics.functional.image.__file__).parent / name
    return {k: v.detach().numpy() for k, v in torch.load(path, map_location="cpu", weights_only=True).items()}


def lpips_layers(vgg16: torch.nn.Sequential, a: np.ndarray, b: np.ndarray) -> list[np.ndarray]:
    """Returns the weighted squared differences of the features of a and b at every location, for each layer."""
    shift, scale = np.array([-0.030, -0.088, -0.188]), np.array([0.458, 0.448, 0.450])
    heads, found = shipped("lpips_models/vgg.pth"), []
    both = [
        layers_of(vgg16, (2 * one - 1 - shift[:, None, None]) / scale[:, None, None], largest)
        for one in (a.astype(float), b.astype(float))
    ]
    for layer, (x, y) in enumerate(zip(*both, strict=True)):
        x, y = (one / np.sqrt((one**2).sum(0) + 1e-8) for one in (x, y))
        found.append(np.tensordot(heads[f"lin{layer}.model.1.weight"][0, :, 0, 0].astype(float), (x - y) ** 2, 1))
    return found


def dists_by_hand(vgg16: torch.nn.Sequential, a: np.ndarray, b: np.ndarray) -> float:
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    weights = {name: value.ravel().astype(float) for name, value in shipped("dists_models/weights.pt").items()}
    both = []
    for one in (a.astype(float), b.astype(float)):
        scaled = (one - mean[:, None, None]) / std[:, None, None]
        both.append([one, *layers_of(vgg16, scaled, root_mean_square)])
    alike, place = 0.0, 0
    for x, y in zip(*both, strict=True):
        for p, q in zip(x, y, strict=True):
            texture = (2 * p.mean() * q.mean() + 1e-6) / (p.mean() ** 2 + q.mean() ** 2 + 1e-6)
            shared = (p * q).mean() - p.mean() * q.mean()
            alike += weights["alpha"][place] * texture
            alike += weights["beta"][place] * (2 * shared + 1e-6) / (p.var() + q.var() + 1e-6)
            place += 1
    return float(1 - alike / (weights["alpha"].sum() + weights["beta"].sum()))


def test_lpips_by_hand(vgg16: torch.nn.Sequential) -> None:
    a, b, lpips = images(2, 3, 32, 16), images(2, 3, 32, 16, seed=1), Lpips(vgg16)
    found = lpips.distance(lpips(a), lpips(b))
    for one, other, value in zip(a, b, found, strict=True):
        by_hand = sum(layer.mean() for layer in lpips_layers(vgg16, one.numpy(), other.numpy()))
        assert float(value) == pytest.approx(by_hand, rel=1e-4)
    assert float(lpips.distance(lpips(a), lpips(a)).abs().max()) == 0


def test_lpips_by_location(vgg16: torch.nn.Sequential) -> None:
    a, b, lpips = images(1, 3, 32, 32), images(1, 3, 32, 32, seed=1), Lpips(vgg16)
    found = lpips.distance_map(lpips(a), lpips(b), (32, 32))[0, 0].double().numpy()
    by_hand = np.zeros((32, 32))
    for layer in lpips_layers(vgg16, a[0].numpy(), b[0].numpy()):
        # Values are interpolated linearly between the centres of the small pixels, and are constant outside the outer
        # centres.
        place = np.clip((np.arange(32) + 0.5) * len(layer) / 32 - 0.5, 0, len(layer) - 1)
        low = np.minimum(place.astype(int), max(len(layer) - 2, 0))
        weights = np.zeros((32, len(layer)))
        weights[np.arange(32), low] += 1 - (place - low)
        weights[np.arange(32), np.minimum(low + 1, len(layer) - 1)] += place - low
        by_hand += weights @ layer @ weights.T
    np.testing.assert_allclose(found, by_hand, rtol=1e-4)


def test_dists_by_hand(vgg16: torch.nn.Sequential) -> None:
    a, b, dists = images(2, 3, 32, 16), images(2, 3, 32, 16, seed=1), Dists(vgg16)
    for one, other, value in zip(a, b, dists(a, b), strict=True):
        assert float(value) == pytest.approx(dists_by_hand(vgg16, one.numpy(), other.numpy()), rel=1e-4)
    assert float(dists(a, a).abs().max()) < 1e-6


def test_ea_dists_takes_a_map_for_three_equal_channels(vgg16: torch.nn.Sequential) -> None:
    a, b, dists = images(1, 3, 32, 32), images(1, 3, 32, 32, seed=1), Dists(vgg16)
    edges = [sobel_magnitude(one)[0].expand(3, -1, -1).numpy() for one in (a, b)]
    assert float(dists(sobel_magnitude(a), sobel_magnitude(b))) == pytest.approx(dists_by_hand(vgg16, *edges), rel=1e-4)


def test_both_are_torchmetrics(vgg16: torch.nn.Sequential, monkeypatch: pytest.MonkeyPatch) -> None:
    def same(weights: object = None) -> SimpleNamespace:
        return SimpleNamespace(features=vgg16)

    monkeypatch.setattr(torchvision.models, "vgg16", same)
    monkeypatch.setattr(torchmetrics.functional.image.dists, "vgg16", same)
    a, b, lpips, dists = images(2, 3, 48, 48), images(2, 3, 48, 48, seed=1), Lpips(vgg16), Dists(vgg16)
    theirs = learned_perceptual_image_patch_similarity(a, b, net_type="vgg", reduction="none", normalize=True)
    torch.testing.assert_close(lpips.distance(lpips(a), lpips(b)), theirs, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(dists(a, b), deep_image_structure_and_texture_similarity(a, b), rtol=1e-4, atol=1e-5)


def test_a_flat_image_has_a_gradient(vgg16: torch.nn.Sequential) -> None:
    lpips, dists = Lpips(vgg16), Dists(vgg16)
    for value in (0.0, 0.5, 1.0):
        flat, target = torch.full((1, 3, 16, 16), value, requires_grad=True), images(1, 3, 16, 16)
        edges = dists(sobel_magnitude(flat), sobel_magnitude(target))
        (lpips.distance(lpips(flat), lpips(target)) + dists(flat, target) + edges).sum().backward()
        assert flat.grad is not None and flat.grad.isfinite().all()


# --- ReFine ---


def test_spatial_min_takes_the_nearer_at_every_location(vgg16: torch.nn.Sequential) -> None:
    lpips = Lpips(vgg16)
    restored, target, other, third = (images(2, 3, 16, 16, seed=seed) for seed in range(4))
    usable = torch.tensor([[True, True], [True, False]])

    def apart(one: torch.Tensor) -> np.ndarray:
        return lpips.distance_map(lpips(restored), lpips(one), (16, 16))[:, 0].numpy()

    maps = [apart(one) for one in (target, other, third)]
    by_hand = np.stack([np.minimum(np.minimum(*maps[:2]), maps[2])[0], np.minimum(*maps[:2])[1]])
    found = spatial_min_loss(
        lpips, restored, target, torch.stack([other, third], 1), [slot.nonzero()[:, 0] for slot in usable.unbind(1)]
    )
    assert float(found) == pytest.approx(by_hand.mean(), rel=1e-5)
    assert by_hand.mean() < maps[0].mean()  # at some locations, a reference is nearer than the target


def test_spatial_min_without_usable_references_is_lpips_to_the_target(vgg16: torch.nn.Sequential) -> None:
    lpips, restored, target = Lpips(vgg16), images(1, 3, 16, 16), images(1, 3, 16, 16, seed=1)
    alone = lpips.distance_map(lpips(restored), lpips(target), (16, 16)).mean()
    wrong = torch.full((1, 2, 3, 16, 16), torch.nan)
    for references in (wrong, wrong[:, :0]):
        shown = torch.zeros(references.shape[:2], dtype=torch.bool)
        torch.testing.assert_close(
            spatial_min_loss(lpips, restored, target, references, [slot.nonzero()[:, 0] for slot in shown.unbind(1)]),
            alone,
        )


def test_a_copy_of_a_reference_costs_nothing(vgg16: torch.nn.Sequential) -> None:
    lpips, target, reference = Lpips(vgg16), images(1, 3, 16, 16), images(1, 3, 16, 16, seed=1)
    references, shown = torch.stack([images(1, 3, 16, 16, seed=2), reference], 1), torch.ones(1, 2, dtype=torch.bool)
    assert (
        float(
            spatial_min_loss(lpips, reference, target, references, [slot.nonzero()[:, 0] for slot in shown.unbind(1)])
        )
        == 0
    )


def test_cycle_compares_what_the_same_degradation_makes(vgg16: torch.nn.Sequential) -> None:
    lpips = Lpips(vgg16)
    targets, preset = [np.asarray(one.permute(1, 2, 0)) for one in images(2, 3, 32, 32)], find_preset("codeformer")
    thetas = [preset.sample(np.random.default_rng(seed)) for seed in range(2)]
    pictures = [to_float((255 * one).astype(np.uint8)) for one in targets]
    lq = torch.stack([torch.from_numpy(apply(p, t)) for p, t in zip(pictures, thetas, strict=True)])
    lq, true = lq.permute(0, 3, 1, 2).float(), torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float()

    assert float(cycle_loss(lpips, true, lq, thetas)) < 0.05 * float(cycle_loss(lpips, 1 - true, lq, thetas))
    # If the θ of the two images are exchanged, the inputs do not fit.
    assert float(cycle_loss(lpips, true, lq, thetas[::-1])) > 5 * float(cycle_loss(lpips, true, lq, thetas))
    overshot = (true + 0.5).requires_grad_()
    loss = cycle_loss(lpips, overshot, lq, thetas)
    loss.backward()
    assert overshot.grad is not None and overshot.grad.isfinite().all() and overshot.grad.abs().sum() > 0
    assert cycle_loss(lpips, true * torch.nan, lq, thetas).isnan()


# --- face alignment ---

POINTS = torch.tensor([[[4.0, 6.0], [12.0, 6.0], [8.0, 10.0], [5.0, 13.0], [11.0, 13.0]]])


def test_regions_by_hand() -> None:
    masks = make_region_masks(POINTS, 16)[0]
    y, x = np.mgrid[:16, :16]
    for mask, (px, py) in zip(masks[:3], ((4, 6), (12, 6), (8, 10)), strict=True):
        by_hand = np.clip(2 - 2 * np.hypot(x - px, y - py) / (0.35 * 8), 0, 1)
        np.testing.assert_allclose(mask.numpy(), by_hand, atol=1e-6)
    to_line = np.hypot(x - np.clip(x, 5, 11), y - 13)
    np.testing.assert_allclose(masks[3].numpy(), np.clip(2 - 2 * to_line / (0.25 * 8), 0, 1), atol=1e-6)


def test_face_alignment_by_hand() -> None:
    restored, target = images(1, 3, 16, 16).double(), images(1, 3, 16, 16, seed=1).double()
    a, b, masks = restored[0].numpy(), target[0].numpy(), make_region_masks(POINTS.double(), 16)[0].numpy()
    total = 0.0
    for scale in range(3):
        if scale:
            a, b, masks = (part.reshape(len(part), *(part.shape[1] // 2, 2) * 2).mean((2, 4)) for part in (a, b, masks))
        for axis in (1, 2):
            apart = np.abs(np.diff(a, axis=axis) - np.diff(b, axis=axis)).mean(0)
            for mask in masks:
                between = (mask.take(range(1, len(mask)), axis - 1) + mask.take(range(len(mask) - 1), axis - 1)) / 2
                total += (apart * between).sum() / max(between.sum(), 1) / 4 / 6
    assert float(face_alignment_loss(restored, target, POINTS)) == pytest.approx(total, rel=1e-9)


def test_face_alignment_looks_at_the_regions_alone() -> None:
    target, points = images(1, 3, 32, 32), POINTS + torch.tensor([8.0, 2.0])
    elsewhere, eye = target.clone(), target.clone()
    # the region of the mouth ends at row 17, so these rows are in no region at any scale
    elsewhere[..., 24:, :] = 0
    eye[..., 7:10, 11:14] = 0
    assert float(face_alignment_loss(elsewhere, target, points)) == 0
    assert float(face_alignment_loss(target + 0.2, target, points)) == pytest.approx(0, abs=1e-6)
    assert float(face_alignment_loss(eye, target, points)) > float(edge_loss(eye, target))


@pytest.mark.parametrize("landmarks", [torch.zeros(1, 5, 2), POINTS * torch.nan, POINTS + 1000.0])
def test_face_alignment_without_a_face_in_the_picture_is_zero(landmarks: torch.Tensor) -> None:
    restored = images(1, 3, 16, 16).requires_grad_()
    loss = face_alignment_loss(restored, images(1, 3, 16, 16, seed=1), landmarks)
    loss.backward()
    assert loss.item() == 0
    assert restored.grad is not None and float(restored.grad.abs().max()) == 0


def test_face_alignment_grows_with_the_displacement() -> None:
    face = torch.zeros(1, 3, 32, 32)
    points = 2 * POINTS
    x, y = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="xy")
    for px, py in points[0].tolist():
        face += torch.exp(-((x - px) ** 2 + (y - py) ** 2) / 8)
    moved = [float(face_alignment_loss(face.roll(step, -1), face, points)) for step in range(4)]
    assert moved == sorted(moved) and moved[0] == 0 < moved[1]


# --- all losses ---


@pytest.mark.parametrize("name", ["mse", "sobel", "reference_identity", "ms_ssim", "face_alignment"])
def test_gradients_are_the_slopes(name: str) -> None:
    target = images(2, 3, 12, 12, seed=1).double()
    usable = torch.tensor([[True, True], [True, False]])
    losses = {
        "mse": lambda x: mse_loss(x, target),
        "sobel": lambda x: sobel_magnitude(x).mean(),
        "reference_identity": lambda x: reference_identity_loss(x[:, 0, 0], target[:, :2, 1], usable),
        "ms_ssim": lambda x: ms_ssim_loss(x, target, (1.0,)),
        "face_alignment": lambda x: face_alignment_loss(x, target, POINTS.double().expand(2, -1, -1) * 0.7),
    }
    point = (0.6 * target + 0.4 * images(2, 3, 12, 12).double()).requires_grad_()
    assert torch.autograd.gradcheck(losses[name], point)


@pytest.mark.parametrize("name", ["lpips", "dists"])
def test_perceptual_gradients_are_the_slopes(vgg16: torch.nn.Sequential, name: str) -> None:
    own = copy.deepcopy(vgg16).double()
    lpips, dists = Lpips(own).double(), Dists(own).double()
    target = images(1, 3, 16, 16, seed=1).double()
    losses = {
        "lpips": lambda x: lpips.distance(lpips(x), lpips(target)),
        "dists": lambda x: dists(x, target),
    }
    point, direction = images(1, 3, 16, 16).double().requires_grad_(), images(1, 3, 16, 16, seed=2).double() - 0.5
    losses[name](point).sum().backward()
    assert point.grad is not None
    with torch.no_grad():
        ends = [losses[name](point + step * direction) for step in (1e-6, -1e-6)]
    assert float((point.grad * direction).sum()) == pytest.approx(float(ends[0] - ends[1]) / 2e-6, rel=1e-4)
