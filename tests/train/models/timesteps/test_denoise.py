"""Tests the noise, the training step and the sampler of a denoiser, against calculations in NumPy."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from manifests.errors import BadInput
from tests.doubles.models.stable_diffusion import write_mini_sd
from tests.doubles.training import DIM, SMALL, models_of, picture, small, snapshot
from train.data.dataset import TrainingFaces, batches
from train.data.snapshot import Snapshot
from train.data.to_device import to_device
from train.fit.engine import Engine, build
from train.fit.loop import train
from train.fit.settings import Settings
from train.fit.steps.step import compute_gradients
from train.losses.pixel import LARGE_DIFFERENCE
from train.models.bases.tiny import SPREAD
from train.models.checkpoint_files import find_newest_checkpoint
from train.models.config import MOST_STEPS
from train.models.io import Conditions
from train.models.restorer import Restorer
from train.models.timesteps.denoise import draw_noise, draw_noisy_step, list_timesteps, sample
from train.recipes.model_configs import build_model_config
from train.recipes.recipe_files import change_recipe
from train.recipes.recipes import DIFFUSION, RECIPES, STYLEGAN_RECIPES, TINY, find_recipe
from train.restore.restore_photos import restore
from train.restore.restorers.load_restorer import load_restorer

DENOISER = small("idm")
CPU = torch.device("cpu")
# alpha-bar of Stable Diffusion's schedule
SHARES = np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)


@pytest.fixture(scope="module")
def taken(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    torch.set_num_threads(1)
    return snapshot(tmp_path_factory.mktemp("denoise"))


@pytest.fixture(scope="module")
def sd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mini_sd(tmp_path_factory.mktemp("sd"))


def awake(base: str, sd: Path) -> Restorer:
    """Returns a denoiser with randomly changed weights, because a new denoiser on base tiny returns its input."""
    torch.manual_seed(0)
    model = Restorer(build_model_config(small("idm", base), DIM, TINY if base == TINY else str(sd))).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(0.05 * torch.randn_like(weight))
    return model


def faces(model: Restorer, count: int = 3) -> tuple[torch.Tensor, ...]:
    size = model.config.size
    lq = torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(1))
    return lq, lq.new_zeros(count, 0, 3, size, size), torch.zeros(count, 0, dtype=torch.bool), lq.new_zeros(count, 0, 1)


# --- the sampler ---


@given(st.integers(MOST_STEPS, 999), st.integers(1, MOST_STEPS))
def test_the_timesteps_fall_from_the_highest_one_at_equal_distances(highest: int, steps: int) -> None:
    timesteps = list_timesteps(highest, steps)
    assert timesteps[0] == highest and len(set(timesteps)) == steps and min(timesteps) > 0
    falls = -np.diff([*timesteps, 0])
    assert falls.max() - falls.min() <= 1


@pytest.mark.parametrize("steps", [1, 2, 7, 20])
def test_the_sampler_is_ddim(steps: int) -> None:
    lq = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(3))

    def predict(z: torch.Tensor, timestep: int) -> torch.Tensor:
        return torch.tanh(z * 0.7 + timestep / 1000) + 0.1 * lq

    found = sample(lq, predict, 999, steps, 5).numpy()

    # The steps of DDIM (Song et al. 2021, Eq. 12 with sigma 0) in float64. The last step returns its clean latent.
    z, timesteps = lq.double().numpy(), [*list_timesteps(999, steps), None]
    noise = torch.randn(1, 3, 4, 4, generator=torch.Generator().manual_seed(5)).double().numpy()
    z = SHARES[999] ** 0.5 * z + (1 - SHARES[999]) ** 0.5 * noise
    for now, after in pairwise(timesteps):
        assert now is not None
        clean = np.tanh(z * 0.7 + now / 1000) + 0.1 * lq.numpy()
        eps = (z - SHARES[now] ** 0.5 * clean) / (1 - SHARES[now]) ** 0.5
        z = clean if after is None else SHARES[after] ** 0.5 * clean + (1 - SHARES[after]) ** 0.5 * eps
    assert np.abs(found - z).max() < 1e-4


# --- a restoration ---


@pytest.mark.parametrize("base", [TINY, DIFFUSION])
def test_a_seed_gives_the_same_bytes_in_any_batch_and_order_and_another_seed_gives_others(base: str, sd: Path) -> None:
    model = awake(base, sd)
    lq, *rest = faces(model)
    with torch.no_grad():
        images = {}
        for steps, seed in ((1, 0), (4, 0), (20, 0), (4, 1)):
            model.set_sampling(steps, seed)
            images[steps, seed] = model(lq, *rest).image
            assert torch.equal(model(lq, *rest).image, images[steps, seed])
            assert bool(torch.isfinite(images[steps, seed]).all())
        turned = model(lq.flip(0), *rest).image.flip(0)
        alone = torch.cat([model(lq[i : i + 1], *(part[:1] for part in rest)).image for i in range(3)])
    assert torch.allclose(turned, images[4, 1], atol=1e-5) and torch.allclose(alone, images[4, 1], atol=1e-5)
    keys = list(images)
    for i, key in enumerate(keys):
        for other in keys[:i]:
            assert float((images[key] - images[other]).abs().max()) > 1e-3, (key, other)


def test_the_noise_is_normal_and_the_same_for_all_images() -> None:
    noise = draw_noise(7, torch.zeros(5, 48, 32, 32))
    assert noise.shape == (1, 48, 32, 32)
    assert abs(float(noise.mean())) < 0.02 and abs(float(noise.std()) - 1) < 0.02
    assert not torch.equal(noise, draw_noise(8, torch.zeros(5, 48, 32, 32)))


@pytest.mark.parametrize("base", [TINY, DIFFUSION])
def test_the_lq_latent_reaches_each_step_beside_the_noise(base: str, sd: Path) -> None:
    model = awake(base, sd)
    lq, *rest = faces(model)
    with torch.no_grad():
        z = model.base.encode(lq)
        conditions = model.condition(lq, *rest)
        one, other = (model.base.predict(z, replace(conditions, lq=latent), 500) for latent in (z, z.flip(0)))
    assert float((one - other).abs().max()) > 1e-3


# --- training ---


def test_timesteps_and_noise_of_a_training_step_follow_from_the_generator() -> None:
    shape = (4000, 1, 2, 2)
    one, again = (draw_noisy_step(60, shape, torch.Generator().manual_seed(3), CPU) for _ in range(2))
    other = draw_noisy_step(60, shape, torch.Generator().manual_seed(4), CPU)
    assert torch.equal(one.timestep, again.timestep) and torch.equal(one.noise, again.noise)
    assert not torch.equal(one.timestep, other.timestep) and not torch.equal(one.noise, other.noise)
    assert set(one.timestep.tolist()) == set(range(1, 61)) and one.noise.shape == shape
    assert abs(float(one.noise.mean())) < 0.02 and abs(float(one.noise.std()) - 1) < 0.02


def test_a_training_step_predicts_the_target_from_its_noisy_latent() -> None:
    model = awake(TINY, Path())
    lq, *rest = faces(model)
    target = torch.rand(lq.shape, generator=torch.Generator().manual_seed(9))
    noisy = draw_noisy_step(999, (3, 192, 4, 4), torch.Generator().manual_seed(2), CPU)
    seen = []
    predict = model.base.predict
    model.base.predict = lambda z, conditions, timestep: (  # type: ignore[method-assign]
        seen.append((z, conditions.lq, timestep)) or predict(z, conditions, timestep)
    )
    restored = model(lq, *rest, target, noisy=noisy)
    ((z, latent, timestep),) = seen
    share = SHARES[noisy.timestep.numpy()].reshape(-1, 1, 1, 1)
    truth = model.base.encode(target).numpy()
    assert np.abs(z.numpy() - (share**0.5 * truth + (1 - share) ** 0.5 * noisy.noise.numpy())).max() < 1e-5
    assert torch.equal(timestep, noisy.timestep) and torch.equal(latent, model.base.encode(lq))
    # A picture with the value SPREAD in -1..1 has the latent 1.
    assert float(model.base.encode(torch.full_like(lq, (SPREAD + 1) / 2)).mean()) == pytest.approx(1)
    assert torch.allclose(model.base.decode(restored.latent).clamp(0, 1), restored.image, atol=1e-6)


def engine_of() -> Engine:
    return build(DENOISER, DIM, 0, Settings(), "fp32", None)


def batch_of(taken: Snapshot) -> dict[str, Any]:
    return to_device(next(batches(TrainingFaces(taken, DENOISER, 0), 0, 4, 0)), CPU)


def test_the_losses_of_a_known_latent_by_hand(taken: Snapshot) -> None:
    # A new denoiser corrects nothing, so its clean latent is the LQ latent, whatever the noise is.
    batch = batch_of(taken)
    figures = compute_gradients(engine_of(), [batch], 0, 0)
    image = torch.where(batch["valid"], batch["lq"], batch["target"]).numpy()
    apart = np.abs(image - batch["target"].numpy())
    small_ones = apart < LARGE_DIFFERENCE
    expected = np.where(small_ones, apart**2 / (2 * LARGE_DIFFERENCE), apart - LARGE_DIFFERENCE / 2).mean()
    assert expected > 0 and float(figures["pixel"]) == pytest.approx(float(expected), rel=1e-3)
    assert set(figures) == {"loss", "pixel", "edge", "gradient"}
    assert float(figures["loss"]) == pytest.approx(float(figures["pixel"] + figures["edge"]), rel=1e-5)


def test_each_training_step_draws_its_own_noise_from_the_seed(taken: Snapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, batch, draws = engine_of(), batch_of(taken), list[tuple[torch.Tensor, torch.Tensor]]()
    predict = engine.model.base.predict

    def note(z: torch.Tensor, conditions: Conditions, timestep: torch.Tensor) -> torch.Tensor:
        draws.append((z, timestep))
        return predict(z, conditions, timestep)

    monkeypatch.setattr(engine.model.base, "predict", note)
    for seen, seed in ((0, 0), (0, 0), (4, 0), (0, 1)):
        compute_gradients(engine, [batch], seen, seed)
    (first, its_timesteps), (again, _), *others = draws
    assert torch.equal(first, again) and its_timesteps.shape == (4,)
    clean = engine.model.base.encode(batch["target"])
    assert float((first - clean).abs().max()) > 1  # the latents have noise
    for other, timesteps in others:
        assert not torch.equal(first, other) and not torch.equal(its_timesteps, timesteps)


# --- checkpoints and commands ---


@pytest.fixture
def run(taken: Snapshot, tmp_path: Path) -> Path:
    """Returns a run with randomly changed weights, so that the noise changes the result."""
    train(tmp_path / "run", taken.folder, DENOISER, 4, workers=0, say=lambda _: None)
    model, facts = awake(TINY, Path()), Restorer.from_pretrained(tmp_path / "run").facts
    model.facts = facts
    model.save_pretrained(find_newest_checkpoint(tmp_path / "run"))
    return tmp_path / "run"


def test_restore_gives_the_same_bytes_for_the_same_seed_in_any_order(
    run: Path, taken: Snapshot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recognizer = taken.folder.parent / "recognizer.onnx"
    monkeypatch.setattr("train.restore.restorers.face_restorer.load_faces", lambda *_, **__: models_of(recognizer))
    # Without this line, `restore` would undo coarse changes.
    monkeypatch.setattr("train.restore.decisions.coarse_form.READABLE_SHARE", 2.0)
    photos = [tmp_path / f"{number}.png" for number in range(2)]
    for number, photo in enumerate(photos):
        cv2.imwrite(str(photo), picture(number, 0, DENOISER.size))

    def restored(name: str, order: list[Path], **options: int | None) -> list[bytes]:
        rows = restore(order, [], run, tmp_path / name, aligned=True, always=True, **options)  # type: ignore[arg-type]
        assert [row.status for row in rows] == ["ok", "ok"]
        return [(tmp_path / name / photo.name).read_bytes() for photo in photos]

    usual = restored("usual", photos, steps=4)
    assert restored("again", photos[::-1], steps=4, seed=0) == usual
    assert restored("seed", photos, steps=4, seed=1) != usual and restored("steps", photos, steps=2) != usual
    with pytest.raises(BadInput, match="was restored with a different checkpoint"):
        restored("usual", photos, steps=4, seed=1)


def test_a_number_of_steps_that_does_not_exist_is_refused(run: Path) -> None:
    for steps in (0, 51):
        with pytest.raises(BadInput, match=f"--steps {steps} is out of range: give 1 to 50"):
            load_restorer(run, steps=steps)
    assert load_restorer(run, steps=50, seed=3).steps == 50
    with pytest.raises(BadInput, match="--steps 2 needs a denoiser, and this restorer restores in one step"):
        Restorer(build_model_config(SMALL, DIM)).set_sampling(2)


def test_only_a_denoiser_has_weights_for_the_timestep_and_the_noise() -> None:
    plain, denoiser = (
        {name: weight.shape for name, weight in Restorer(build_model_config(recipe, DIM)).state_dict().items()}
        for recipe in (SMALL, replace(SMALL, denoise=True))
    )
    assert plain.keys() < denoiser.keys() and all("time" in name for name in denoiser.keys() - plain.keys())
    wider = {name for name in plain if plain[name] != denoiser[name]}
    assert wider == {"base.unet.first.weight", "base.refine.first.weight"}


def test_the_recipe_idm_is_the_only_denoiser_and_vre_cannot_be_one() -> None:
    assert [name for name in RECIPES if name not in STYLEGAN_RECIPES and find_recipe(name, TINY).denoise] == ["idm"]
    assert find_recipe("idm", TINY).timestep == 999
    with pytest.raises(BadInput, match="recipe vre trains no restorer"):
        change_recipe(find_recipe("vre", TINY), "--change", "denoise", True)
