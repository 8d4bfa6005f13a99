import io
import json
import math
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from degrade.operations.apply import apply, run_steps
from degrade.operations.blur import blur
from degrade.operations.colour import brightness, contrast, hue, saturation, shift
from degrade.operations.jpeg import jpeg, jpeg_bytes
from degrade.operations.kernels import gaussian_kernel
from degrade.operations.noise import noise
from degrade.operations.pixels import shrink, to_float, to_uint8
from degrade.operations.resize import downsample, resize
from degrade.presets import PRESETS
from degrade.sampling import sample_theta
from manifests.errors import BadInput

CHAIN = {
    "version": 1,
    "steps": [
        {"op": "blur", "kernel": "aniso", "size": 41, "sigma_x": 1.0, "sigma_y": 4.0, "angle": 0.6},
        {"op": "downsample", "factor": 3.3, "interpolation": "bilinear"},
        {"op": "noise", "sigma": 9.0, "gray": False, "seed": 7},
        {"op": "jpeg", "quality": 70},
        {"op": "upsample", "interpolation": "bilinear"},
    ],
}


def picture(height: int = 72, width: int = 64, seed: int = 0) -> np.ndarray:
    coarse = np.random.default_rng(seed).random((6, 6, 3), np.float32)
    return np.clip(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), 0, 1)


def changed(step: int, **values: object) -> dict:
    theta = json.loads(json.dumps(CHAIN))
    theta["steps"][step] |= values
    return theta


# --- the same θ gives the same bits ---


@settings(max_examples=40)
@given(st.sampled_from(sorted(PRESETS)), st.integers(0, 2**63 - 1), st.integers(33, 80), st.integers(33, 80))
def test_a_theta_replays_to_the_same_bits_after_a_trip_through_json(preset, seed, height, width):
    theta = sample_theta(PRESETS[preset], seed, "face")
    hq = picture(height, width)
    before = hq.copy()
    once, again = apply(hq, theta), apply(hq, json.loads(json.dumps(theta)))
    assert np.array_equal(once, again) and np.array_equal(hq, before)
    assert once.shape == hq.shape and once.dtype == np.float32
    assert np.array_equal(to_float(to_uint8(once)), once)  # the values are multiples of 1/255, and therefore in 0..1


def test_threads_and_memory_layout_change_no_bit():
    hq = picture(200, 180)
    threads = cv2.getNumThreads()
    try:
        results = []
        for count in (1, 2, 4):
            cv2.setNumThreads(count)
            results.append(apply(hq, CHAIN))
    finally:
        cv2.setNumThreads(threads)
    results.append(apply(np.asfortranarray(hq), CHAIN))
    results.append(apply(hq[:, ::-1][:, ::-1], CHAIN))
    assert all(np.array_equal(results[0], result) for result in results[1:])


def test_another_process_gives_the_same_bytes():
    code = (
        "import hashlib, numpy as np; from degrade.operations.apply import apply;"
        "from degrade.presets import PRESETS; from degrade.sampling import sample_theta;"
        "hq = np.random.default_rng(3).random((90, 80, 3), np.float32);"
        "pictures = [apply(hq, sample_theta(preset, 5, 'x')).tobytes() for preset in PRESETS.values()];"
        "print(hashlib.sha256(b''.join(pictures)).hexdigest())"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, **extra}, capture_output=True, text=True, check=True
        ).stdout
        for extra in ({"PYTHONHASHSEED": "1"}, {"PYTHONHASHSEED": "2", "OMP_NUM_THREADS": "3"})
    ]
    assert runs[0] == runs[1]


# --- each operation agrees with the code of the literature ---


def literature(hq: np.ndarray, theta: dict) -> np.ndarray:
    """Runs the steps before JPEG as BasicSR and GFPGAN write them, in BGR and with the full 2-D kernel."""
    image = np.ascontiguousarray(hq[..., ::-1])
    for step in theta["steps"]:
        if step["op"] == "blur":
            turn = step["angle"]
            u = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
            covariance = u @ np.diag([step["sigma_x"] ** 2, step["sigma_y"] ** 2]) @ u.T
            axis = np.arange(-step["size"] // 2 + 1.0, step["size"] // 2 + 1.0)
            grid = np.stack(np.meshgrid(axis, axis), axis=-1)
            kernel = np.exp(-0.5 * np.sum((grid @ np.linalg.inv(covariance)) * grid, axis=2))
            image = cv2.filter2D(image, -1, kernel / kernel.sum())
        elif step["op"] == "downsample":
            height, width = image.shape[:2]
            shape = (int(width // step["factor"]), int(height // step["factor"]))
            image = cv2.resize(image, shape, interpolation=cv2.INTER_LINEAR)
        elif step["op"] == "noise":
            drawn = np.random.Generator(np.random.PCG64(step["seed"])).standard_normal(image.shape, dtype=np.float32)
            image = np.clip(image + drawn[..., ::-1] * step["sigma"] / 255.0, 0, 1)
        else:
            break
    return image[..., ::-1]


# This list leaves out `refine`, whose operations are in another order. tests/degrade/test_refine_preset.py compares
# `refine` with its release.
CLASSIC = [name for name, preset in PRESETS.items() if preset.blur and not preset.motion[0] and not preset.full_size]


@pytest.mark.parametrize("preset", CLASSIC)
def test_before_jpeg_we_are_where_the_literature_is(preset):
    hq = picture(128, 128)
    for seed in range(12):
        theta = sample_theta(PRESETS[preset], seed, "face")
        until = [step["op"] for step in theta["steps"]].index("jpeg")
        assert np.abs(run_steps(hq, theta["steps"][:until], 1) - literature(hq, theta)).max() <= 1 / 255 / 100
        assert np.abs(run_steps(hq, theta["steps"][:until], 2) - literature(hq, theta)).max() <= 1 / 255 / 4


def test_jpeg_weighs_red_as_red_and_is_420():
    hq = picture(64, 64)
    data = jpeg_bytes(hq, 80)
    with Image.open(io.BytesIO(data)) as decoded:
        assert decoded.mode == "RGB"
        assert [component[1:3] for component in decoded.layer] == [(2, 2), (1, 1), (1, 1)]
        by_another_decoder = np.asarray(decoded).astype(int)
    assert np.abs(by_another_decoder - to_uint8(jpeg(hq, 80)).astype(int)).max() <= 2
    red = np.zeros((16, 16, 3), np.float32)
    red[..., 0] = 1
    assert to_uint8(jpeg(red, 95))[8, 8, 0] > 240
    turned = jpeg(np.ascontiguousarray(hq[..., ::-1]), 40)[..., ::-1]
    assert not np.array_equal(turned, jpeg(hq, 40))  # another order of the channels gives another JPEG


def test_blur_is_a_mirrored_convolution_even_where_the_kernel_is_larger_than_the_picture():
    for height, width in [(1, 1), (1, 9), (5, 3), (50, 44)]:
        hq = picture(height, width)
        kernel = gaussian_kernel(41, 2.5, 6.0, 0.8)
        padded = np.pad(hq, ((20, 20), (20, 20), (0, 0)), mode="reflect").astype(np.float64)
        by_hand = sum(kernel[y, x] * padded[y : y + height, x : x + width] for y in range(41) for x in range(41))
        assert np.abs(blur(hq, "aniso", 41, sigma_x=2.5, sigma_y=6.0, angle=0.8) - by_hand).max() < 1e-6
        flat = blur(hq, "iso", 41, sigma_x=4.0, sigma_y=4.0, angle=0.0)
        assert np.abs(flat - blur(hq, "aniso", 41, sigma_x=4.0, sigma_y=4.0, angle=0.0)).max() < 1e-6


def test_a_vanishing_sigma_is_no_blur():
    hq = picture()
    for sigma in (0.0, 1e-300, 0.01):
        assert np.allclose(blur(hq, "iso", 41, sigma_x=sigma, sigma_y=sigma, angle=0.0), hq, atol=1e-6)
        assert np.allclose(blur(hq, "aniso", 41, sigma_x=sigma, sigma_y=sigma, angle=1.0), hq, atol=1e-6)


def test_noise_has_the_strength_it_says_and_clips_without_rounding():
    gray = np.full((200, 200, 3), 0.5, np.float32)
    noisy = noise(gray, 10.0, False, 3)
    assert abs((noisy - gray).std() * 255 - 10) < 0.2
    assert not np.array_equal(noisy, to_float(to_uint8(noisy)))
    assert noise(gray * 0, 50.0, False, 3).min() == 0 and noise(gray * 2, 50.0, False, 3).max() == 1
    same = noise(gray, 10.0, True, 3)
    assert np.ptp(same, axis=2).max() == 0 and np.ptp(same) > 0
    assert not np.array_equal(noisy, noise(gray, 10.0, False, 4))


def test_downsampling_never_goes_below_one_pixel():
    assert downsample(picture(5, 300), 8.0, "bilinear").shape == (1, 37, 3)
    assert downsample(picture(64, 64), 0.5, "bilinear").shape == (128, 128, 3)
    assert apply(picture(3, 2), changed(1, factor=1000.0)).shape == (3, 2, 3)  # version 1 of θ keeps at least one pixel
    with pytest.raises(BadInput, match="leaves less than one pixel of 2 x 3"):
        apply(picture(3, 2), {**changed(1, factor=1000.0), "version": 2})
    with pytest.raises(BadInput, match="makes 29999 x 29999 pixels"):
        apply(picture(3000, 3000), changed(1, factor=0.1))


@pytest.mark.parametrize(("before", "after"), [(64, 8), (64, 24), (8, 64), (33, 33)])
def test_imresize_is_antialiased_bicubic(before, after):
    hq = picture(before, before, seed=2)
    ours = resize(hq, after, after, "imresize")
    by_pillow = np.stack(
        [np.asarray(Image.fromarray(hq[..., c]).resize((after, after), Image.Resampling.BICUBIC)) for c in range(3)], -1
    )
    # the border is left out, because Pillow cuts its kernel there, and MATLAB mirrors the image
    edge = max(2, math.ceil(2 * after / before))
    inner = slice(edge, -edge)
    assert np.abs(ours - by_pillow)[inner, inner].max() < 1e-4
    assert np.abs(resize(np.ones_like(hq), after, after, "imresize") - 1).max() < 1e-6


def test_colour_is_torchvisions():
    functional = pytest.importorskip("torchvision.transforms.functional")
    torch = pytest.importorskip("torch")
    hq = picture(20, 24, seed=5)
    tensor = torch.from_numpy(hq).permute(2, 0, 1)
    for ours, theirs in [
        (brightness(hq, 1.3), functional.adjust_brightness(tensor, 1.3)),
        (contrast(hq, 0.6), functional.adjust_contrast(tensor, 0.6)),
        (contrast(hq, 1.4), functional.adjust_contrast(tensor, 1.4)),
        (saturation(hq, 0.0), functional.adjust_saturation(tensor, 0.0)),
        (saturation(hq, 1.5), functional.adjust_saturation(tensor, 1.5)),
        (hue(hq, 0.1), functional.adjust_hue(tensor, 0.1)),
        (hue(hq, -0.1), functional.adjust_hue(tensor, -0.1)),
    ]:
        assert np.abs(ours - theirs.permute(1, 2, 0).numpy()).max() < 2e-5
    assert np.array_equal(shift(hq, 1.0, -1.0, 0.0), np.dstack([np.ones_like(hq[..., 0]), 0 * hq[..., 0], hq[..., 2]]))


def test_shrink_keeps_what_is_small_and_the_proportions_of_what_is_not():
    pixels = to_uint8(picture(100, 50))
    assert shrink(pixels, None) is pixels and shrink(pixels, 100) is pixels and shrink(pixels, 512) is pixels
    assert shrink(pixels, 50).shape == (50, 25, 3) and shrink(pixels, 50).dtype == np.uint8
    assert shrink(to_uint8(picture(300, 1)), 3).shape == (3, 1, 3)


# --- wrong inputs are refused with one sentence ---


@pytest.mark.parametrize(
    ("theta", "says"),
    [
        (None, "JSON object"),
        ([], "JSON object"),
        ({"steps": []}, "no version"),
        ({"version": 1}, "no steps"),
        ({**CHAIN, "version": 3}, "update Likeness"),
        ({**CHAIN, "version": "1"}, "whole number"),
        ({**CHAIN, "version": 0}, "whole number"),
        ({**CHAIN, "colour": 1}, "does not know: colour"),
        ({"version": 1, "steps": {}}, "list"),
        ({"version": 1, "steps": [{"op": "swirl"}]}, "no known operation"),
        ({"version": 1, "steps": [{"op": ["blur"]}]}, "no known operation"),
        ({"version": 1, "steps": ["blur"]}, "no known operation"),
        ({"version": 1, "steps": [{"op": "jpeg"}]}, "has no quality"),
        ({"version": 1, "steps": CHAIN["steps"][:2]}, "another size"),
        (changed(0, sigma_x=math.nan), "sigma_x is nan"),
        (changed(0, sigma_x=-1.0), "number from 0"),
        (changed(0, sigma_y=math.inf), "sigma_y is inf"),
        (changed(0, sigma_x=True), "sigma_x is True"),
        (changed(0, kernel="box"), "iso or aniso"),
        (changed(0, kernel="plateau_iso"), "has no beta"),
        (changed(0, kernel="generalized_aniso", beta=0), "beta is 0"),
        (changed(0, kernel="generalized_aniso", beta=math.nan), "beta is nan"),
        (changed(0, kernel="sinc"), "has no cutoff"),
        (changed(0, kernel="sinc", cutoff=4.0), "cutoff is 4.0"),
        (changed(0, kernel="motion", length=-1), "length is -1"),
        (changed(0, beta=1.0), "unknown key: beta"),
        ({"version": 1, "steps": [{"op": "poisson", "scale": 1.0, "gray": False}]}, "has no seed"),
        ({"version": 1, "steps": [{"op": "poisson", "scale": -1.0, "gray": False, "seed": 1}]}, "scale is -1.0"),
        ({"version": 1, "steps": [{"op": "jpeg", "quality": 5, 1: 2}]}, "unknown key: 1"),
        (changed(0, size=40), "odd"),
        (changed(0, size=41.0), "whole number"),
        (changed(0, sigma=3.0), "unknown key: sigma"),
        (changed(1, factor=0), "factor is 0"),
        (changed(1, interpolation="lanczos"), "bilinear or"),
        (changed(2, seed=-1), "seed is -1"),
        (changed(2, seed=1.5), "seed is 1.5"),
        (changed(2, gray=1), "true or false"),
        (changed(3, quality=70.0), "quality is 70.0"),
        (changed(3, quality=0), "from 1 to 100"),
        (changed(3, quality=None), "quality is None"),
        (changed(3, quality=10**400), r"quality is 10{36}\.\.\.; it must"),
        (changed(3, quality=10**5000), "quality is a int too large to print"),
        (changed(3, **{"x\n" * 99: 1}), "unknown key: x x x"),
    ],
)
def test_a_theta_that_cannot_be_replayed_is_refused_in_one_sentence(theta, says):
    with pytest.raises(BadInput, match=says) as caught:
        apply(picture(), theta)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 200


leaves = st.one_of(
    st.none(), st.booleans(), st.integers(), st.sampled_from([10**400, -1, 2**60]), st.floats(), st.text()
)
values = st.recursive(
    leaves, lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(), inside), max_leaves=6
)


@settings(max_examples=200)
@given(st.data())
def test_whatever_is_done_to_a_theta_it_runs_or_is_refused_in_one_sentence(data):
    theta = sample_theta(PRESETS[data.draw(st.sampled_from(sorted(PRESETS)))], data.draw(st.integers(0, 99)), "face")
    theta["version"] = data.draw(st.sampled_from([1, 2]))
    where = data.draw(st.sampled_from([theta, *theta["steps"]]))
    key = data.draw(st.sampled_from(sorted(where)) | st.text())
    if data.draw(st.booleans()):
        where.pop(key, None)
    else:
        where[key] = data.draw(values)
    hq = picture(40, 36)
    try:
        lq = apply(hq, theta)
    except BadInput as error:
        assert "\n" not in str(error) and len(str(error)) < 300
    else:
        assert lq.shape == hq.shape and lq.dtype == np.float32 and np.array_equal(to_float(to_uint8(lq)), lq)


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (np.zeros((4, 4), np.float32), "RGB"),
        (np.zeros((4, 4, 4), np.float32), "RGB"),
        (np.zeros((0, 4, 3), np.float32), "RGB"),
        ([[0.0]], "RGB"),
        (np.zeros((4, 4, 3), np.uint8), "float32"),
        (np.zeros((4, 4, 3)), "float32"),
        (np.full((4, 4, 3), 255, np.float32), "from 0 to 1"),
        (np.full((4, 4, 3), np.nan, np.float32), "from 0 to 1"),
    ],
)
def test_a_picture_of_another_kind_is_refused_in_one_sentence(image, says):
    with pytest.raises(BadInput, match=says):
        apply(image, CHAIN)
