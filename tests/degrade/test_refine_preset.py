"""Compares the preset `refine` with the order of operations of ReFineFIR's release, computed with NumPy and Pillow."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from degrade.operations.apply import apply, run_steps
from degrade.presets import PRESETS, find_preset
from degrade.sampling import sample_theta
from degrade.theta import check_theta

SIDE = 64


def picture(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    wave = np.sin(np.arange(SIDE) / 5)[:, None, None] * np.cos(np.arange(SIDE) / 7)[None, :, None]
    return np.clip(0.5 + 0.4 * wave * rng.uniform(-1, 1, 3) + rng.uniform(-0.1, 0.1, (SIDE, SIDE, 3)), 0, 1).astype(
        "f4"
    )


def blur(image: np.ndarray, step: dict) -> np.ndarray:
    turn, half = step["angle"], step["size"] // 2
    u = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    inverse = np.linalg.inv(u @ np.diag([step["sigma_x"] ** 2, step["sigma_y"] ** 2]) @ u.T)
    axis = np.arange(-half, half + 1.0)
    grid = np.stack(np.meshgrid(axis, axis), axis=-1)
    kernel = np.exp(-0.5 * np.einsum("abi,ij,abj->ab", grid, inverse, grid))
    wide = np.pad(image.astype(float), ((half, half), (half, half), (0, 0)), mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(wide, kernel.shape, (0, 1))
    return np.einsum("abcij,ij->abc", windows, kernel / kernel.sum())


def pool(image: np.ndarray, side: int) -> np.ndarray:
    ends = [(n * SIDE // side, -(-(n + 1) * SIDE // side)) for n in range(side)]
    return np.array([[image[a:b, c:d].mean((0, 1)) for c, d in ends] for a, b in ends])


def enlarge(image: np.ndarray) -> np.ndarray:
    place = np.clip((np.arange(SIDE) + 0.5) * len(image) / SIDE - 0.5, 0, len(image) - 1)
    low, part = np.floor(place).astype(int), place % 1
    high = np.minimum(low + 1, len(image) - 1)
    rows = image[low] * (1 - part)[:, None, None] + image[high] * part[:, None, None]
    return rows[:, low] * (1 - part)[None, :, None] + rows[:, high] * part[None, :, None]


def compress(image: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(np.clip(np.rint(image * 255), 0, 255).astype(np.uint8)).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file)) / 255


@pytest.mark.parametrize("seed", range(12))
def test_the_order_of_operations_is_that_of_the_release(seed):
    theta, hq = sample_theta(PRESETS["refine"], seed, "face"), picture(seed)
    blurring, noise, down, up, jpeg = theta["steps"]
    image = blur(hq, blurring)
    numbers = np.random.Generator(np.random.PCG64(noise["seed"])).standard_normal(hq.shape, dtype=np.float32)
    # the noise is added at full size, before the downsample
    image = np.clip(image + numbers * noise["sigma"] / 255, 0, 1)
    image = enlarge(pool(image, int(SIDE / down["factor"])))
    assert (up["op"], up["interpolation"], noise["gray"]) == ("upsample", "bilinear", False)
    assert np.abs(run_steps(hq, theta["steps"][:4]) - image).max() * 255 <= 0.25
    ours = apply(hq, theta)
    assert np.abs(ours - compress(image, jpeg["quality"])).mean() * 255 <= 0.6  # JPEG comes last, at full size
    again = apply(hq, json.loads(json.dumps(theta)))
    assert ours.tobytes() == again.tobytes()


def test_the_numbers_are_those_of_the_release_at_256_px():
    thetas = [sample_theta(PRESETS["refine"], number, "face") for number in range(2000)]
    for theta in thetas:
        check_theta(theta)
        assert [step["op"] for step in theta["steps"]] == ["blur", "noise", "downsample", "upsample", "jpeg"]
    blurs, noises, downs, _, jpegs = zip(*(theta["steps"] for theta in thetas), strict=True)
    assert {step["size"] for step in blurs} == {21} and {step["quality"] for step in jpegs} == set(range(60, 100))
    assert abs(np.mean([step["kernel"] == "iso" for step in blurs]) - 0.5) < 0.04
    for values, low, high in (
        ([step["sigma_x"] for step in blurs], 0.1, 5),
        ([step["sigma"] for step in noises], 0, 50),
        ([step["factor"] for step in downs], 0.8, 8),
    ):
        span = high - low
        assert low <= min(values) < low + 0.02 * span and high - 0.02 * span < max(values) <= high


def test_a_preset_file_can_use_the_order_of_refine(tmp_path):
    file = tmp_path / "large.toml"  # contains the numbers of the release for images of another size than 256 px
    file.write_text(
        "blur = [0.1, 10]\ndown = [0.8, 32]\nnoise = [0, 50]\njpeg = [60, 100]\n"
        'resize = "pool"\nupsample = "bilinear"\nfull_size = true\n'
    )
    theta = sample_theta(find_preset(str(file)), 0, "face")
    check_theta(theta)
    assert [step["op"] for step in theta["steps"]] == ["blur", "noise", "downsample", "upsample", "jpeg"]
    assert [step.get("interpolation") for step in theta["steps"]] == [None, None, "pool", "bilinear", None]
