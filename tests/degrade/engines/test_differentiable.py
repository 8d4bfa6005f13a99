import functools
import json

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from degrade.engines.differentiable import apply, quantise, run_steps
from degrade.engines.differentiable_jpeg import jpeg, straight_through
from degrade.operations import apply as exact
from degrade.operations.jpeg import jpeg as encode_exactly
from degrade.operations.pixels import quantise as quantise_exactly
from degrade.operations.pixels import to_float, to_uint8
from degrade.presets import PRESETS
from degrade.sampling import sample_theta
from degrade.theta import INTERPOLATIONS, VERSION
from manifests.errors import BadInput
from tests.places import FUZZ

ELLIPSE = {"op": "blur", "size": 21, "sigma_x": 1.3, "sigma_y": 3.1, "angle": 0.7}
# Smooth steps, whose gradients can be compared with numerical gradients.
SMOOTH = {
    "iso": [{**ELLIPSE, "kernel": "iso"}],
    "aniso": [{**ELLIPSE, "kernel": "aniso"}],
    "generalized_aniso": [{**ELLIPSE, "kernel": "generalized_aniso", "beta": 1.7}],
    "plateau_iso": [{**ELLIPSE, "kernel": "plateau_iso", "beta": 1.2}],
    "sinc": [{"op": "blur", "kernel": "sinc", "size": 13, "cutoff": 1.1}],
    "motion": [{"op": "blur", "kernel": "motion", "size": 15, "length": 9.0, "angle": 0.4}],
    **{f"down {i}": [{"op": "downsample", "factor": 1.6, "interpolation": i}] for i in INTERPOLATIONS},
    **{f"enlarge {i}": [{"op": "downsample", "factor": 0.7, "interpolation": i}] for i in INTERPOLATIONS},
    "up": [
        {"op": "downsample", "factor": 2.3, "interpolation": "area"},
        {"op": "upsample", "interpolation": "bicubic"},
    ],
    "noise": [{"op": "noise", "sigma": 9.0, "gray": False, "seed": 3}],
    "gray noise": [{"op": "noise", "sigma": 9.0, "gray": True, "seed": 3}],
    "shift": [{"op": "shift", "red": 0.05, "green": -0.02, "blue": 0.6}],
    "gray": [{"op": "gray"}],
    "brightness": [{"op": "brightness", "factor": 1.4}],
    "contrast": [{"op": "contrast", "factor": 0.6}],
    "saturation": [{"op": "saturation", "factor": 1.5}],
    "hue": [{"op": "hue", "factor": 0.09}],
}
POISSON = [{"op": "poisson", "scale": 1.5, "gray": False, "seed": 11}]
CHAIN = [
    {**ELLIPSE, "kernel": "aniso"},
    {"op": "downsample", "factor": 3.3, "interpolation": "bilinear"},
    {"op": "noise", "sigma": 9.0, "gray": False, "seed": 7},
    {"op": "jpeg", "quality": 70},
    {"op": "upsample", "interpolation": "bilinear"},
]


@functools.cache
def astronaut() -> np.ndarray:
    data = pytest.importorskip("skimage.data")
    return to_float(np.ascontiguousarray(data.astronaut()))


def picture(height: int = 72, width: int = 64, seed: int = 0) -> np.ndarray:
    coarse = np.random.default_rng(seed).random((6, 6, 3), np.float32)
    return np.clip(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), 0, 1)


def batch(*pictures: np.ndarray) -> torch.Tensor:
    return torch.stack([torch.from_numpy(np.ascontiguousarray(each)).permute(2, 0, 1) for each in pictures])


def levels(image: torch.Tensor, other: np.ndarray) -> np.ndarray:
    """Returns the difference of two pictures in units of 1/255, (H, W, 3)."""
    return np.abs(image.detach().permute(1, 2, 0).numpy() - other) * 255


def theta(steps: list, version: int = VERSION) -> dict:
    return {"version": version, "steps": steps}


def until_jpeg(full: dict) -> dict:
    names = [step["op"] for step in full["steps"]]
    return {**full, "steps": full["steps"][: names.index("jpeg") if "jpeg" in names else None]}


# --- the forward pass equals the exact engine ---


def agrees(hq: np.ndarray, preset: str, seeds: range) -> np.ndarray:
    """Checks that each draw agrees with the exact engine, and returns the differences after JPEG, in units of 1/255.

    Before JPEG, no difference may be above 1/255. After JPEG, the mean difference of a draw may be up to .6/255, and
    the 99.9th percentile up to 6/255.
    """
    found = []
    for seed in seeds:
        full = sample_theta(PRESETS[preset], seed, "face")
        before = until_jpeg(full)
        ours = run_steps(batch(hq), [before])[0]
        assert levels(ours, exact.run_steps(hq, before["steps"], before["version"])).max() <= 1, (preset, seed)
        apart = levels(apply(batch(hq), [full])[0], exact.apply(hq, full))
        assert apart.mean() <= 0.6 and np.quantile(apart, 0.999) < 6.01, (preset, seed)
        found.append(apart)
    return np.stack(found)


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_a_draw_is_what_the_exact_engine_makes_of_it(preset):
    apart = agrees(np.ascontiguousarray(astronaut()[:256, 100:356]), preset, range(8))
    # The limits for all draws together are much lower than the limits for a single draw in `agrees`.
    assert np.quantile(apart, 0.999) <= 1 and apart.mean() <= 0.02


@pytest.mark.slow
@pytest.mark.shared_data
@pytest.mark.parametrize(
    "preset",
    [
        pytest.param(name, marks=() if name in ("gfpgan", "real-esrgan") else pytest.mark.exhaustive)
        for name in sorted(PRESETS)
    ],
)
def test_draws_on_real_faces_are_what_the_exact_engine_makes_of_them(preset, shared_data):
    files = sorted((shared_data / "people_crops").glob("*/*.jpg"))[::480]
    assert len(files) == 4
    apart, draws = [], 10 if FUZZ else 3
    for number, file in enumerate(files):
        pixels = cv2.cvtColor(cv2.imread(str(file)), cv2.COLOR_BGR2RGB)
        face = cv2.resize(pixels, (512, 512), interpolation=cv2.INTER_CUBIC)
        apart.append(agrees(to_float(face), preset, range(10 * number, 10 * number + draws)))
    assert np.quantile(np.stack(apart), 0.999) <= 1 and np.mean(apart) <= 0.02


@settings(max_examples=40)
@given(st.sampled_from(sorted(PRESETS)), st.integers(0, 2**63 - 1), st.integers(33, 80), st.integers(33, 80))
def test_any_draw_at_any_size_is_what_the_exact_engine_makes_of_it_before_jpeg(preset, seed, height, width):
    hq, before = picture(height, width), until_jpeg(sample_theta(PRESETS[preset], seed, "face"))
    ours = run_steps(batch(hq), [before])[0]
    assert levels(ours, exact.run_steps(hq, before["steps"], before["version"])).max() <= 0.05


@pytest.mark.parametrize("version", range(1, VERSION + 1))
@pytest.mark.parametrize("name", [*SMOOTH, "poisson", "chain", "second order"])
def test_every_operation_at_every_size(name, version):
    second = [*CHAIN[:4], *POISSON, {**ELLIPSE, "kernel": "iso"}, {"op": "jpeg", "quality": 40}, *CHAIN[4:]]
    steps = {**SMOOTH, "poisson": POISSON, "chain": CHAIN[:3], "second order": second}[name]
    for height, width in [(61, 47), (64, 64), (9, 33), (16, 5), (5, 4)]:
        hq = picture(height, width, seed=height)
        ours = run_steps(batch(hq), [theta(steps, version)])[0]
        theirs = exact.run_steps(hq, steps, version)
        assert ours.shape == (3, *theirs.shape[:2])
        # Before the second JPEG, the pictures of the two engines may differ by one level. If the second JPEG then
        # rounds one coefficient differently, a whole block differs by 3 levels.
        assert levels(ours, theirs).max() <= (0.05 if name != "second order" else 12), (height, width)
        assert levels(ours, theirs).mean() <= (0.01 if name != "second order" else 0.6), (height, width)


def test_the_second_of_two_jpegs_starts_from_the_exact_engines_picture():
    # If the second JPEG did not start from the same picture as in the exact engine, a difference in the last bit could
    # change a rounding of the first JPEG. This JPEG would spread the change over a block, and the second JPEG would
    # magnify it.
    hq = np.ascontiguousarray(astronaut()[:256, 100:356])
    for seed in range(10):
        noisy = {"op": "noise", "sigma": 9.0, "gray": False, "seed": seed}
        steps = [CHAIN[0], noisy, {"op": "jpeg", "quality": 30}, {"op": "jpeg", "quality": 60}]
        ours = run_steps(batch(hq), [theta(steps)])[0]
        assert np.array_equal(to_uint8(ours.permute(1, 2, 0).numpy()), to_uint8(exact.run_steps(hq, steps)))
    guess = batch(hq[:32, :32]).requires_grad_()
    (gradient,) = torch.autograd.grad(apply(guess, [theta(steps)]).sum(), guess)
    # the gradient also passes through the step that replaces the picture by the exact picture
    assert gradient.isfinite().all() and gradient.mean() > 0.9


def test_a_single_pixel_and_a_single_line():
    steps = [{**ELLIPSE, "kernel": "aniso"}, *CHAIN[2:4], *SMOOTH["hue"], *SMOOTH["contrast"], *CHAIN[4:]]
    for height, width in [(1, 1), (1, 9), (7, 1), (2, 2), (3, 5)]:
        hq = picture(height, width)
        apart = levels(apply(batch(hq), [theta(steps)])[0], exact.apply(hq, theta(steps)))
        assert apart.max() <= 1, (height, width)
    tiny = theta([{"op": "downsample", "factor": 9.0, "interpolation": "area"}, CHAIN[4]], 1)
    assert levels(apply(batch(hq), [tiny])[0], exact.apply(hq, tiny)).max() <= 1


def test_an_upsample_that_grows_only_the_height():
    steps = [{"op": "downsample", "factor": factor, "interpolation": "area"} for factor in (1.6, 0.51, 0.51)]  # (1, 68)
    hq = np.random.default_rng(0).random((3, 30, 3), np.float32)
    grown = theta([*steps, {"op": "upsample", "interpolation": "area"}])
    assert levels(apply(batch(hq), [grown])[0], exact.apply(hq, grown)).max() <= 1


@settings(max_examples=60)
@given(st.integers(1, 50), st.integers(1, 50), st.integers(1, 100), st.integers(0, 2**32), st.booleans())
def test_a_jpeg_of_8_bits_is_the_decoded_file_bit_for_bit(height, width, quality, seed, rough):
    hq = picture(height, width, seed)
    if rough:
        hq = np.random.default_rng(seed).random((height, width, 3), np.float32)
    hq = quantise_exactly(hq)
    for dtype in (torch.float32, torch.float64):
        ours = jpeg(batch(hq).to(dtype), [quality])[0].float()
        assert np.array_equal(to_uint8(ours.permute(1, 2, 0).numpy()), to_uint8(encode_exactly(hq, quality)))


def test_each_sample_of_a_batch_has_its_own_theta_and_its_own_result():
    pictures = [picture(64, 64, seed) for seed in range(9)]
    thetas = [sample_theta(PRESETS["gfpgan"], seed, "face") for seed in range(7)]
    thetas += [theta([]), theta([*POISSON, *SMOOTH["hue"], *SMOOTH["sinc"]])]
    together = apply(batch(*pictures), thetas)
    for each, one, alone in zip(pictures, thetas, together, strict=True):
        assert levels(alone, apply(batch(each), [one])[0].permute(1, 2, 0).numpy()).max() <= 1.001
        assert levels(alone, exact.apply(each, one)).mean() <= 0.6
    assert torch.equal(together, apply(batch(*pictures), json.loads(json.dumps(thetas))))
    assert not together.requires_grad and torch.equal(quantise(together), together)


def test_what_the_user_has_set_for_speed_changes_nothing():
    hq, thetas = batch(picture(), picture(seed=1)), [theta(CHAIN), theta(SMOOTH["up"])]
    plain = apply(hq, thetas)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(apply(hq, thetas), plain)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        assert (apply(hq, thetas) - plain).abs().mean() < 0.01 / 255
    finally:
        torch.set_float32_matmul_precision(before)


def test_half_precision_is_computed_and_answered_in_float32_and_double_in_double():
    hq = batch(picture())
    for dtype in (torch.float16, torch.bfloat16):
        half = hq.to(dtype)
        result = apply(half, [theta(CHAIN)])
        assert result.dtype == torch.float32 and torch.equal(result, apply(half.float(), [theta(CHAIN)]))
    result = apply(hq.double(), [theta(CHAIN)])
    assert result.dtype == torch.float64 and (result - apply(hq, [theta(CHAIN)])).abs().mean() <= 0.6 / 255


# --- the backward pass has a gradient ---


def inside(height: int = 7, width: int = 6) -> torch.Tensor:
    """Returns a float64 picture without clipped values and without equal channels, where every operation is smooth."""
    values = 0.35 + 0.25 * np.random.default_rng(5).random((height, width, 3)) + np.array([0.02, 0.11, 0.2])
    return batch(values).requires_grad_()


@pytest.mark.parametrize("name", SMOOTH)
def test_gradients_of_what_is_smooth(name):
    def degrade(hq):
        return run_steps(hq, [theta(SMOOTH[name])])[0]

    assert torch.autograd.gradcheck(degrade, (inside(),))


@pytest.mark.parametrize("size", [(6, 5), (17, 18), (4, 3), (1, 1)])
def test_jpeg_has_the_gradient_of_the_same_transform_without_rounding(size):
    hq = inside(*size)
    assert torch.autograd.gradcheck(lambda x: jpeg(x, [50], rounding=False), (hq,), fast_mode=size == (17, 18))
    weights = torch.rand(hq.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    gradients = [torch.autograd.grad((jpeg(hq, [50], each) * weights).sum(), hq)[0] for each in (True, False)]
    assert torch.allclose(*gradients, atol=1e-12)
    # Without rounding, only the colour differs a little, because JPEG stores the chroma at half size.
    assert (jpeg(hq, [5], rounding=False) - hq).abs().max() < 0.2
    even = torch.full_like(hq, 0.4)
    assert (jpeg(even, [5], rounding=False) - even).abs().max() < 1e-4


def test_rounding_is_passed_through_and_clipping_alone_is_not():
    x = torch.tensor([[[[0.1001]], [[0.5]], [[0.9]]]], requires_grad=True)
    assert torch.equal(torch.autograd.grad(quantise(x).sum(), x)[0], torch.ones_like(x))
    bright = run_steps(x, [theta([{"op": "brightness", "factor": 1.5}])])[0]
    assert torch.autograd.grad(bright.sum(), x)[0].flatten().tolist() == [1.5, 1.5, 0.0]
    given_, wanted = torch.tensor([0.3], requires_grad=True), torch.tensor([7.0])
    result = straight_through(given_ * 2, wanted)
    assert result.item() == 7 and torch.autograd.grad(result, given_)[0].item() == 2


def test_poisson_noise_counts_as_a_constant():
    hq = inside(12, 12)
    gradient = torch.autograd.grad(run_steps(hq, [theta(POISSON)])[0].sum(), hq)[0]
    assert set(gradient.flatten().tolist()) <= {0.0, 1.0} and gradient.mean() > 0.8


def test_a_cycle_loss_leads_from_a_wrong_face_towards_the_right_one():
    truth, guess = batch(picture(48, 48, 0), picture(48, 48, 1)), batch(picture(48, 48, 2), picture(48, 48, 3))
    thetas = [theta([*CHAIN[:1], {**CHAIN[1], "factor": 1.5}, *CHAIN[2:]]), theta([*SMOOTH["hue"], *CHAIN])]
    seen = apply(truth, thetas)
    guess.requires_grad_()
    optimiser = torch.optim.Adam([guess], lr=0.03)
    losses = []
    for _ in range(40):
        loss = (apply(guess.clamp(0, 1), thetas) - seen).abs().mean()
        optimiser.zero_grad()
        loss.backward()
        assert torch.isfinite(guess.grad).all()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 4


def test_black_white_and_gray_pictures_have_finite_gradients():
    steps = [*SMOOTH["hue"], *SMOOTH["saturation"], *CHAIN]
    for value in (0.0, 0.5, 1.0):
        hq = torch.full((1, 3, 16, 16), value, requires_grad=True)
        apply(hq, [theta(steps)]).square().sum().backward()
        assert torch.isfinite(hq.grad).all()


# --- wrong inputs are refused with one sentence ---


@pytest.mark.parametrize(
    ("hq", "says"),
    [
        (torch.zeros(3, 4, 4), r"shape \(batch, 3, height, width\), not \(3, 4, 4\)"),
        (torch.zeros(1, 4, 4, 3), "RGB tensor"),
        (torch.zeros(1, 1, 4, 4), "RGB tensor"),
        (torch.zeros(0, 3, 4, 4), "RGB tensor"),
        (torch.zeros(1, 3, 0, 4), "RGB tensor"),
        (np.zeros((1, 3, 4, 4), np.float32), "not ndarray"),
        (torch.zeros(1, 3, 4, 4, dtype=torch.uint8), "divide uint8 by 255"),
        (torch.full((1, 3, 4, 4), 1.01), "clamp it first"),
        (torch.full((1, 3, 4, 4), -0.01), "clamp it first"),
        (torch.full((1, 3, 4, 4), torch.nan), "clamp it first"),
    ],
)
def test_a_batch_of_another_kind_is_refused(hq, says):
    with pytest.raises(BadInput, match=says) as caught:
        apply(hq, [theta([])])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("thetas", "says"),
    [
        ([], "needs a list of 2 θ, one for each image, not 0"),
        ([theta([])], "not 1"),
        (theta([]), "not dict"),
        ("ab", "not str"),
        ([theta([]), {"version": 99, "steps": []}], "update Likeness"),
        ([theta([]), theta([{"op": "jpeg"}])], "has no quality"),
        ([theta([]), theta(CHAIN[:2])], "another size"),
    ],
)
def test_thetas_that_do_not_fit_the_batch_are_refused(thetas, says):
    with pytest.raises(BadInput, match=says):
        apply(torch.zeros(2, 3, 32, 32), thetas)
