"""Compares the exact engine with BasicSR, the code of published papers, on the same θ (needs the extra `reference`)."""

from __future__ import annotations

import importlib.util
import json
import sys

import cv2
import numpy as np
import pytest

from degrade.engines import basicsr_reference
from degrade.operations.apply import apply, run_steps
from degrade.operations.jpeg import jpeg_bytes
from degrade.operations.kernels import make_kernel
from degrade.operations.pixels import Image, to_float
from degrade.presets import PRESETS
from degrade.sampling import sample_theta
from degrade.theta import Theta
from manifests.errors import BadInput
from tests.places import FUZZ

needs_basicsr = pytest.mark.skipif(
    importlib.util.find_spec("basicsr") is None, reason="needs basicsr: pip install --no-deps basicsr==1.4.2"
)
DRAWS = 200 if FUZZ else 40  # draws of each preset; `make test` uses the first tenth of these draws
# All presets except real-esrgan. Its Poisson noise and its second JPEG would magnify a difference in the last bit.
CLASSIC = [name for name in PRESETS if name != "real-esrgan"]


def face_like(seed: int, side: int = 512) -> Image:
    """Returns a picture with edges, texture and flat parts, float32 (side, side, 3) in multiples of 1/255."""
    rng = np.random.default_rng(seed)
    coarse = cv2.resize(rng.integers(0, 256, (6, 6, 3), np.uint8), (side, side), interpolation=cv2.INTER_CUBIC)
    cv2.circle(coarse, (side // 2, side // 2), side // 3, tuple(map(int, rng.integers(0, 256, 3))), -1)
    cv2.line(coarse, (0, side // 3), (side, side // 2), (250, 250, 250), 2)
    part = coarse[: side // 2, : side // 2].astype(np.int16) + rng.integers(-30, 31, (side // 2, side // 2, 3))
    coarse[: side // 2, : side // 2] = np.clip(part, 0, 255)
    return to_float(np.asarray(coarse, np.uint8))


def compared(preset: str, seed: int, hq: Image) -> float:
    """Returns the largest difference between the two engines before JPEG, in units of 1/255.

    Also checks that both engines write the same JPEG file, and that the engines agree after the JPEG.
    """
    theta = sample_theta(PRESETS[preset], seed, "parity")
    steps = theta["steps"]
    at = next((n for n, step in enumerate(steps) if step["op"] == "jpeg"), len(steps))
    ours = run_steps(hq, steps[:at], theta["version"])
    theirs = basicsr_reference.run_steps(hq, steps[:at])
    assert ours.shape == theirs.shape
    if at < len(steps):
        quality = steps[at]["quality"]
        assert jpeg_bytes(ours, quality) == basicsr_reference.jpeg_bytes(ours, quality), (preset, seed)
        # Both engines continue with the same picture, so all later steps must agree.
        rest = [step for step in steps[at:] if step["op"] != "upsample"]
        after = np.abs(run_steps(ours, rest) - basicsr_reference.run_steps(ours, rest)).max() * 255
        assert after <= 1, (preset, seed, after)
    return float(np.abs(ours - theirs).max() * 255)


@needs_basicsr
@pytest.mark.slow
@pytest.mark.parametrize("draws", [DRAWS // 10, pytest.param(DRAWS, marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize("preset", CLASSIC)
def test_before_jpeg_no_pixel_of_any_draw_is_more_than_one_level_apart(preset: str, draws: int) -> None:
    faces = [face_like(seed) for seed in range(10)]
    is_random = len({json.dumps(sample_theta(PRESETS[preset], seed, "parity")) for seed in range(10)}) > 1
    # bicubic-x8 draws no random numbers, so one draw for each of the ten pictures is enough
    assert is_random or preset == "bicubic-x8"
    seeds = draws if is_random else min(draws, 10)
    assert max(compared(preset, seed, faces[seed % 10]) for seed in range(seeds)) <= 1


@needs_basicsr
def test_a_second_order_chain_agrees_up_to_its_first_shot_noise_or_jpeg() -> None:
    for seed in range(20):
        steps, hq = sample_theta(PRESETS["real-esrgan"], seed, "parity")["steps"], face_like(seed % 4, 256)
        until = next(n for n, step in enumerate(steps) if step["op"] in ("poisson", "jpeg"))
        apart = np.abs(run_steps(hq, steps[:until]) - basicsr_reference.run_steps(hq, steps[:until])).max() * 255
        assert apart <= 0.25, seed


@needs_basicsr
@pytest.mark.parametrize("kernel", ["iso", "aniso", "generalized_iso", "generalized_aniso", "plateau_iso", "sinc"])
def test_kernels_are_basicsrs(kernel: str) -> None:
    rng = np.random.default_rng(0)
    for _ in range(10):
        step = {"op": "blur", "kernel": kernel, "size": int(rng.integers(3, 21)) * 2 + 1}
        if kernel == "sinc":
            step["cutoff"] = rng.uniform(np.pi / 5, np.pi)
        else:
            step |= {"sigma_x": rng.uniform(0.2, 10), "sigma_y": rng.uniform(0.2, 10), "angle": rng.uniform(-3, 3)}
        if "_" in kernel:
            step["beta"] = rng.uniform(0.5, 4)
        np.testing.assert_allclose(make_kernel(step), basicsr_reference.make_step_kernel(step), atol=1e-12)


@needs_basicsr
@pytest.mark.parametrize("gray", [True, False])
@pytest.mark.parametrize("op", [{"op": "noise", "sigma": 13.0}, {"op": "poisson", "scale": 1.5}])
def test_noise_is_basicsrs_with_the_numbers_of_theta(op: dict[str, object], gray: bool) -> None:
    hq = face_like(3, 64)
    steps = [{**op, "gray": gray, "seed": 7}]
    assert np.abs(run_steps(hq, steps) - basicsr_reference.run_steps(hq, steps)).max() * 255 < 1e-3


@needs_basicsr
@pytest.mark.parametrize("op", ["brightness", "contrast", "saturation", "hue"])
def test_colour_is_torchvisions(op: str) -> None:
    hq = face_like(4, 64)
    for factor in (0.05, 0.4) if op == "hue" else (0.0, 0.6, 1.4):
        steps = [{"op": op, "factor": factor}]
        assert np.abs(run_steps(hq, steps) - basicsr_reference.run_steps(hq, steps)).max() * 255 < 0.1


@needs_basicsr
def test_it_replays_and_leaves_the_process_as_it_was() -> None:
    hq, before = face_like(5, 96), np.geterr()
    theta: Theta = sample_theta(PRESETS["gfpgan"], 0, "x")
    first = basicsr_reference.apply(hq, theta)
    np.random.seed(0)  # noqa: NPY002
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    assert np.array_equal(basicsr_reference.apply(hq, theta), first)
    assert np.array_equal(np.random.get_state()[1], state) and np.geterr() == before  # noqa: NPY002
    assert first.shape == hq.shape and first.dtype == np.float32 and np.array_equal(first, np.rint(first * 255) / 255)
    assert np.abs(first - apply(hq, theta)).mean() * 255 < 2


@needs_basicsr
def test_sides_that_one_scale_does_not_resize_are_one_sentence() -> None:
    theta = sample_theta(PRESETS["bicubic-x8"], 0, "x")
    with pytest.raises(BadInput, match="one scale for both sides"):
        basicsr_reference.apply(np.zeros((100, 81, 3), np.float32), theta)


def test_without_basicsr_it_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "basicsr", None)
    monkeypatch.setitem(sys.modules, "basicsr.data", None)
    basicsr_reference.load_basicsr.cache_clear()
    with pytest.raises(BadInput, match="pip install --no-deps basicsr") as caught:
        basicsr_reference.apply(np.zeros((8, 8, 3), np.float32), {"version": 1, "steps": []})
    assert "\n" not in str(caught.value)
    basicsr_reference.load_basicsr.cache_clear()
