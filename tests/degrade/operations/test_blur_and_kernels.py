"""Compares the fast blur with the plain blur, kernels with BasicSR's formulas, and results on different processors."""

import math
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special

from degrade.operations.apply import apply, apply_to_pixels, run_steps
from degrade.operations.blur import blur, fast_blur, mirror_indices
from degrade.operations.kernels import TOLERANCE, cut_kernel, make_kernel, separate_kernel, support_radius
from degrade.operations.noise import poisson
from degrade.operations.pixels import to_float, to_uint8
from degrade.operations.resize import downsampled_size, resize, resize_matrix
from degrade.presets import PRESETS
from degrade.sampling import sample_theta
from degrade.theta import INTERPOLATIONS, KERNELS
from manifests.errors import BadInput

sigmas = st.floats(0, 20)
angles = st.floats(-4, 4)
sizes = st.integers(0, 24).map(lambda half: 2 * half + 1)
ellipses = {"sigma_x": sigmas, "sigma_y": sigmas, "angle": angles}
blurs = st.one_of(
    st.fixed_dictionaries({"kernel": st.sampled_from(["iso", "aniso"]), "size": sizes, **ellipses}),
    st.fixed_dictionaries(
        {"kernel": st.sampled_from(KERNELS[2:6]), "size": sizes, **ellipses, "beta": st.floats(0.3, 6)}
    ),
    st.fixed_dictionaries({"kernel": st.just("sinc"), "size": sizes, "cutoff": st.floats(0.3, math.pi)}),
    st.fixed_dictionaries({"kernel": st.just("motion"), "size": sizes, "length": st.floats(0, 60), "angle": angles}),
).map(lambda step: {"op": "blur", **step})


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = cv2.resize(rng.random((7, 7, 3), np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(coarse.reshape(height, width, 3) + 0.2 * rng.random((height, width, 3), np.float32), 0, 1)


# --- kernels ---


@pytest.mark.parametrize("kernel", KERNELS[:6])
def test_elliptic_kernels_are_basicsrs(kernel):
    sigma_x, sigma_y, angle, beta, size = 2.3, 0.9, 0.7, 1.7, 21
    step = {"kernel": kernel, "size": size, "sigma_x": sigma_x, "sigma_y": sigma_y, "angle": angle, "beta": beta}
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    covariance = turn @ np.diag([sigma_x**2, sigma_y**2]) @ turn.T
    if kernel.split("_")[-1] == "iso":
        covariance = np.eye(2) * sigma_x**2
    axis = np.arange(-10, 11.0)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1)
    q = np.sum((grid @ np.linalg.inv(covariance)) * grid, axis=2)
    power = beta if "_" in kernel else 1.0
    by_formula = 1 / (1 + q**power) if kernel.startswith("plateau") else np.exp(-0.5 * q**power)
    assert np.abs(make_kernel(step) - by_formula / by_formula.sum()).max() < 1e-12


def test_the_sinc_kernel_is_basicsrs():
    size, cutoff = 13, 1.3
    y, x = np.mgrid[:size, :size] - size // 2
    r = np.sqrt(x**2 + y**2)
    r[6, 6] = np.nan
    by_formula = cutoff * special.j1(cutoff * r) / (2 * np.pi * r)
    by_formula[6, 6] = cutoff**2 / (4 * np.pi)
    ours = make_kernel({"kernel": "sinc", "size": size, "cutoff": cutoff})
    assert np.abs(ours - by_formula / by_formula.sum()).max() < 1e-15


def test_a_motion_kernel_is_a_line():
    flat = make_kernel({"kernel": "motion", "size": 21, "length": 9.0, "angle": 0.0})
    assert np.allclose(flat[10, 6:15], 1 / 9) and np.allclose(flat.sum(axis=1)[10], 1)
    none = make_kernel({"kernel": "motion", "size": 21, "length": 0.0, "angle": 0.3})
    assert none[10, 10] > 0.95
    y, x = np.mgrid[:21, :21] - 10
    turned = make_kernel({"kernel": "motion", "size": 21, "length": 15.0, "angle": 0.6})
    assert math.isclose(0.5 * math.atan2(2 * (turned * x * y).sum(), (turned * (x**2 - y**2)).sum()), 0.6, abs_tol=0.03)


@settings(max_examples=150)
@given(blurs)
def test_the_passes_of_a_kernel_add_up_to_it(step):
    kernel = make_kernel(step)
    assert kernel.shape == (step["size"], step["size"]) and abs(kernel.sum() - 1) < 1e-9
    assert np.allclose(kernel, kernel[::-1, ::-1], atol=1e-15)
    columns, rows = separate_kernel(cut_kernel(step), 60)
    again = sum(np.outer(column, row) for column, row in zip(columns, rows, strict=True))
    cut = (step["size"] - columns.shape[1]) // 2
    missed = np.abs(kernel - np.pad(again, cut)).sum()
    assert missed <= TOLERANCE
    assert np.abs(kernel).sum() - np.abs(kernel[cut : step["size"] - cut, cut : step["size"] - cut]).sum() <= TOLERANCE
    assert support_radius(kernel, 0.0) <= step["size"] // 2


# --- resize ---


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize(
    "lengths", [(512, 128), (512, 123), (64, 64), (37, 99), (5, 1), (1, 1), (1, 4), (50, 49), (3, 2)]
)
def test_the_matrix_of_a_resize_is_the_resize(interpolation, lengths):
    count, rows = lengths
    hq = picture(count, count)
    matrix = resize_matrix(count, rows, interpolation)
    assert matrix.shape == (rows, count) and np.allclose(matrix.sum(axis=1), 1)
    by_matrix = np.einsum("ia,abc,jb->ijc", matrix, hq, matrix, optimize=True)
    assert np.abs(by_matrix - resize(hq, rows, rows, interpolation)).max() < 2e-6


@pytest.mark.parametrize("interpolation", ["area", "bilinear", "bicubic"])
def test_every_small_enlargement_reads_the_pixels_that_opencv_reads(interpolation):
    differ = []
    for count in range(1, 51):
        pixels = np.eye(count, dtype=np.float32)
        for rows in range(count, 2 * count + 13):
            matrix = resize_matrix(count, rows, interpolation)
            by_opencv = resize(np.dstack([pixels] * 3), rows, count, interpolation)[:, :, 0]
            if np.abs(matrix - by_opencv).max() > 1e-5:
                differ.append((count, rows))
    assert differ == []


def test_a_large_image_that_shrinks_by_one_pixel_has_the_weights_of_opencv():
    for count, rows in [(1024, 1023), (1025, 1024), (2048, 2047), (1500, 1499), (2000, 1998)]:
        image = picture(count, 3)
        by_matrix = np.einsum("ia,abc->ibc", resize_matrix(count, rows, "area"), image)
        assert np.abs(by_matrix - resize(image, rows, 3, "area")).max() < 2e-6


@pytest.mark.parametrize("interpolation", ["area", "bilinear", "bicubic"])
def test_if_one_side_grows_both_sides_have_the_weights_of_opencv(interpolation):
    differ = []
    for height in range(1, 16):
        for width in range(1, 16):
            image = picture(height, width)
            for size in [
                (height + 1, width // 2 + 1),
                (height // 3 + 1, width + 4),
                (2 * height, 1),
                (height, width + 1),
            ]:
                enlarges = size[0] > height or size[1] > width
                rows = resize_matrix(height, size[0], interpolation, enlarges=enlarges)
                columns = resize_matrix(width, size[1], interpolation, enlarges=enlarges)
                by_matrix = np.einsum("ia,abc,jb->ijc", rows, image, columns, optimize=True)
                if np.abs(by_matrix - resize(image, *size, interpolation)).max() > 1e-5:
                    differ.append((height, width, size))
    assert differ == []


def test_the_border_is_mirrored_as_opencv_does():
    for count in (1, 2, 3, 7, 50):
        place = np.arange(-130, 180)
        by_opencv = [cv2.borderInterpolate(int(p), count, cv2.BORDER_REFLECT_101) for p in place]
        assert mirror_indices(place, count).tolist() == by_opencv


# --- the fast blur agrees with the plain blur ---


@settings(max_examples=200)
@given(
    blurs,
    st.integers(1, 70),
    st.integers(1, 70),
    st.one_of(st.none(), st.tuples(st.floats(0.4, 40), st.sampled_from(INTERPOLATIONS))),
)
def test_the_fast_way_is_the_plain_way(step, height, width, then):
    hq = picture(height, width)
    down = {"op": "downsample", "factor": then[0], "interpolation": then[1]} if then else None
    plain = blur(hq, **{key: value for key, value in step.items() if key != "op"})
    if down:
        plain = resize(plain.reshape(hq.shape), *downsampled_size(height, width, down["factor"]), down["interpolation"])
    fast = fast_blur(hq, step, down)
    gain = np.abs(make_kernel(step)).sum()  # this gain can be above 1, because a sinc kernel has negative weights
    assert fast.dtype == np.float32 and fast.shape == plain.reshape(fast.shape).shape
    # An interpolation with negative weights can magnify a difference. The largest factor is the square of the sum of
    # the absolute weights.
    overshoot = 1.6 if then and then[1] in ("bicubic", "imresize") else 1
    assert np.abs(fast - plain.reshape(fast.shape)).max() <= 0.25 / 255 * max(1, gain) * overshoot


@pytest.mark.parametrize("preset", [name for name, preset in PRESETS.items() if preset.blur])
def test_at_512_the_fast_way_is_far_within_one_level_of_the_plain_way(preset):
    hq = picture(512, 512)
    for seed in range(6):
        steps = sample_theta(PRESETS[preset], seed, "face")["steps"][:2]
        plain, fast = run_steps(hq, steps, 1), run_steps(hq, steps, 2)
        assert np.abs(plain - fast).max() <= 0.25 / 255
        assert np.abs(to_uint8(plain).astype(int) - to_uint8(fast)).max() <= 1


def test_version_1_is_every_step_by_itself():
    hq = picture(64, 48)
    theta = {**sample_theta(PRESETS["gfpgan"], 3, "face"), "version": 1}
    by_step = hq
    for step in theta["steps"]:
        by_step = run_steps(by_step, [step], 1) if step["op"] != "upsample" else resize(by_step, 64, 48, "bilinear")
    assert np.array_equal(apply(hq, theta), to_float(to_uint8(by_step)))


def test_pixels_in_and_pixels_out_is_apply():
    pixels = to_uint8(picture(60, 60))
    theta = sample_theta(PRESETS["diffbir"], 1, "face")
    assert np.array_equal(apply_to_pixels(pixels, theta), to_uint8(apply(to_float(pixels), theta)))
    with pytest.raises(BadInput, match="uint8"):
        apply_to_pixels(to_float(pixels), theta)  # type: ignore[arg-type]
    for wrong in (pixels[..., 0], np.dstack([pixels, pixels[..., :1]])):
        with pytest.raises(BadInput, match="repeat the channel of a gray image, and drop the alpha"):
            apply_to_pixels(wrong, theta)


def test_rounding_is_to_the_nearest_halves_to_even():
    ties = (np.arange(-600, 1200) / 2 / 255).astype(np.float32)
    for near in (ties, np.nextafter(ties, np.float32(9)), np.nextafter(ties, np.float32(-9)), np.abs(ties)):
        by_numpy = np.clip(np.rint(near * np.float32(255)), 0, 255).astype(np.uint8)
        assert np.array_equal(to_uint8(near), by_numpy)
        assert np.array_equal(to_uint8(near.reshape(60, 10, 3)), by_numpy.reshape(60, 10, 3))


def test_an_operation_on_one_pixel_works():
    one = np.full((1, 1, 3), 0.5, np.float32)
    for step in (
        {"op": "blur", "kernel": "aniso", "size": 41, "sigma_x": 3.0, "sigma_y": 9.0, "angle": 1.0},
        {"op": "blur", "kernel": "sinc", "size": 21, "cutoff": 1.0},
        {"op": "downsample", "factor": 1.0, "interpolation": "area"},
        {"op": "poisson", "scale": 1.0, "gray": True, "seed": 1},
        {"op": "noise", "sigma": 9.0, "gray": True, "seed": 1},
        {"op": "jpeg", "quality": 50},
        {"op": "hue", "factor": 0.2},
        {"op": "shift", "red": 0.1, "green": 0.0, "blue": 0.0},
        {"op": "saturation", "factor": 0.2},
    ):
        assert apply(one, {"version": 2, "steps": [step]}).shape == (1, 1, 3)


# --- shot noise ---


def test_shot_noise_has_the_variance_of_counts_and_keeps_the_mean():
    flat = np.full((200, 200, 3), 100 / 255, np.float32)
    # the first two rows contain all 256 levels
    flat[:2] = to_float(np.arange(1200, dtype=np.int64).astype(np.uint8).reshape(2, 200, 3))
    noisy = poisson(flat, 1.0, False, 5)[2:]
    assert abs(noisy.mean() - 100 / 255) < 1e-3
    assert abs(noisy.std() - math.sqrt(100 / 255 / 256)) < 1e-3
    assert abs(poisson(flat, 2.0, False, 5)[2:].std() - 2 * math.sqrt(100 / 255 / 256)) < 2e-3
    same = poisson(flat, 1.0, True, 5) - flat
    assert np.ptp(same[2:], axis=2).max() < 1e-6 and np.ptp(same) > 0
    assert np.array_equal(poisson(flat, 1.0, False, 5), poisson(flat, 1.0, False, 5))
    assert not np.array_equal(poisson(flat, 1.0, False, 5), poisson(flat, 1.0, False, 6))
    black = np.zeros((5, 5, 3), np.float32)
    assert not poisson(black, 3.0, False, 1).any()


# --- the same bits on another processor ---

CODE = """
import hashlib, sys
import cv2, numpy as np
cv2.setNumThreads(int(sys.argv[1]))
from degrade.operations.apply import apply_to_pixels
from degrade.presets import PRESETS
from degrade.sampling import sample_theta
pixels = np.random.default_rng(3).integers(0, 256, (12, 12, 3)).astype(np.uint8)
pixels = cv2.resize(pixels, (200, 216), interpolation=cv2.INTER_CUBIC)
for preset in PRESETS.values():
    for seed in range(6):
        theta = sample_theta(preset, seed, "x")
        for version in (1, 2):
            made = apply_to_pixels(pixels, {**theta, "version": version})
            print(preset.name, seed, version, hashlib.sha256(made.tobytes()).hexdigest()[:16])
"""


@pytest.mark.parametrize(
    "environment",
    [
        {"OPENBLAS_CORETYPE": "Haswell"},
        {"OPENBLAS_CORETYPE": "SkylakeX"},
        {"OPENBLAS_CORETYPE": "Sandybridge", "OPENBLAS_NUM_THREADS": "1"},
        {"OPENCV_CPU_DISABLE": "AVX512F"},
        {"OPENCV_CPU_DISABLE": "AVX512-SKX"},
        {"NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512_ICL AVX512_SPR"},
    ],
    ids=lambda environment: "-".join(environment.values()),
)
def test_another_processor_would_give_the_same_bytes(environment, reference_bytes):
    assert _bytes_under(environment, "3") == reference_bytes


@pytest.fixture(scope="module")
def reference_bytes() -> str:
    return _bytes_under({}, "1")


def _bytes_under(environment: dict[str, str], threads: str) -> str:
    command = [sys.executable, "-W", "ignore", "-c", CODE, threads]
    run = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=True)
    return run.stdout
