"""Tests the discriminator of recipe osdface, whose latents have noise for a random timestep."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from degrade.sampling import make_generator
from manifests.errors import BadInput
from tests.doubles.training import ADVERSARIAL
from tests.doubles.training_runs import run, same_weights
from train.data.dataset import TrainingFaces, collate
from train.data.snapshot import Snapshot
from train.data.to_device import to_device
from train.fit.adversary import Diffusion, build_discriminator, discriminator_loss, draw_diffusion, generator_term
from train.fit.engine import build
from train.fit.settings import Settings
from train.fit.steps.step import compute_gradients
from train.models.io import Restoration
from train.recipes.recipe_files import change_recipe
from train.recipes.recipes import RECIPES, STYLEGAN_RECIPES, find_recipe

DIFFUSED = replace(ADVERSARIAL, diffused_timesteps=1000, losses={"pixel": 1.0, "gan": 0.01})
# Alpha-bar of Stable Diffusion, whose betas have equally spaced square roots.
ALPHA = torch.from_numpy(np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2)).float()


def diffuse(latent: torch.Tensor, timestep: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    share = ALPHA[timestep].view(-1, 1, 1, 1)
    return share.sqrt() * latent + (1 - share).sqrt() * noise


def test_only_the_recipe_osdface_diffuses_and_one_key_turns_it_off() -> None:
    recipes = {name: find_recipe(name, None if name in STYLEGAN_RECIPES else "tiny") for name in RECIPES}
    assert {name: recipe.diffused_timesteps for name, recipe in recipes.items() if recipe.diffused_timesteps} == {
        "osdface": 1000
    }
    assert change_recipe(recipes["osdface"], "--change", "diffused_timesteps", 0).discriminator == "latent"
    for name, value, said in (("instant", 9, 'only the discriminator "latent"'), ("osdface", 1001, "from 0 to 1000")):
        with pytest.raises(BadInput, match=said):
            change_recipe(recipes[name], "--change", "diffused_timesteps", value)


def test_timesteps_and_noise_follow_from_the_generator() -> None:
    latent = torch.zeros(400, 2, 4, 4)
    one, again, other = (draw_diffusion(10, latent, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert sorted(set(one.timestep.tolist())) == list(range(10))
    assert one.noise.mean().abs() < 0.05 and one.true_noise.std().sub(1).abs() < 0.05
    assert not torch.equal(one.noise, one.true_noise)


def test_two_processes_together_draw_the_numbers_of_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def draw(images: int) -> Diffusion:
        return draw_diffusion(1000, torch.zeros(images, 2, 4, 4), torch.Generator().manual_seed(1))

    whole, parts = draw(6), []
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        parts.append(draw(3))
    for one, *both in zip(whole, *parts, strict=True):
        assert torch.equal(one, torch.cat(both))


def test_both_sides_of_the_adversary_by_hand() -> None:
    torch.manual_seed(0)
    discriminator = build_discriminator(DIFFUSED, 48, None)
    assert discriminator is not None
    discriminator.eval()
    latent, truth, image = (
        torch.randn(3, 48, 8, 8, requires_grad=True),
        torch.randn(3, 48, 8, 8),
        torch.rand(3, 3, 8, 8),
    )
    restored, batch = Restoration(image, latent, None), {"target": image}
    draws = Diffusion(torch.tensor([0, 399, 999]), torch.randn(3, 48, 8, 8), torch.randn(3, 48, 8, 8))
    shown = diffuse(latent, draws.timestep, draws.noise)
    made = discriminator(image, shown, None, timestep=draws.timestep)
    true = discriminator(image, diffuse(truth, draws.timestep, draws.true_noise), None, timestep=draws.timestep)
    term = generator_term(discriminator, batch, restored, draws)
    torch.testing.assert_close(term, F.softplus(-made).mean())
    wrong = (F.softplus(-true).mean() + F.softplus(made).mean()) / 2
    torch.testing.assert_close(discriminator_loss(discriminator, batch, restored, truth, draws), wrong)
    # The network uses the timestep. The noisy latent contains the latent times sqrt(alpha-bar), so the gradient of the
    # latent has the same factor.
    assert not torch.allclose(discriminator(image, shown, None, timestep=draws.timestep.flip(0)), made)
    (slope,) = torch.autograd.grad(F.softplus(-made).mean(), shown, retain_graph=True)
    (gradient,) = torch.autograd.grad(term, latent)
    torch.testing.assert_close(gradient, slope * ALPHA[draws.timestep].sqrt().view(-1, 1, 1, 1))


def test_a_step_by_hand(taken: Snapshot) -> None:
    engine = build(DIFFUSED, 16, 0, Settings(), "fp32", None)
    made = TrainingFaces(taken, DIFFUSED, 0)
    batch = to_device(collate([made[i] for i in range(4)]), torch.device("cpu"))
    discriminator, model = engine.discriminator, engine.model
    assert discriminator is not None
    discriminator.eval()
    figures = compute_gradients(engine, [batch], 8, 5)

    # The random draws follow from the seed of the run. The draws for the loss of the model come first, and then the
    # draws for the loss of the discriminator.
    inputs = [batch[name] for name in ("lq", "references", "present", "embeddings", "target")]
    restored = model(*inputs, places=batch["places"])
    true_latent = model.base.encode(batch["target"])
    seed = int(make_generator(5, "train", "diffusion", 8, 0, 0).integers(2**62))
    draw = torch.Generator().manual_seed(seed)
    ours, theirs = (draw_diffusion(1000, restored.latent, draw) for _ in range(2))

    def judge(latent: torch.Tensor, timestep: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        return discriminator(restored.image, diffuse(latent, timestep, noise), None, timestep=timestep)

    term = F.softplus(-judge(restored.latent, ours.timestep, ours.noise)).mean()
    assert figures["gan"].item() == pytest.approx(term.item(), rel=1e-4)
    wrong = (
        F.softplus(-judge(true_latent, theirs.timestep, theirs.true_noise)).mean()
        + F.softplus(judge(restored.latent.detach(), theirs.timestep, theirs.noise)).mean()
    ) / 2
    assert figures["discriminator"].item() == pytest.approx(wrong.item(), rel=1e-4)
    # The discriminator must get gradients only from its own loss.
    weight = discriminator.get_parameter("last.parametrizations.weight.original")
    clipped = min(1, DIFFUSED.clip / figures["discriminator_gradient"].item())
    expected = torch.autograd.grad(wrong, weight)[0] * clipped
    torch.testing.assert_close(weight.grad, expected, rtol=1e-3, atol=1e-6)


def test_a_run_that_rests_ends_in_the_same_weights(tmp_path: Path, taken: Snapshot) -> None:
    run(tmp_path / "whole", taken, 12, DIFFUSED)
    run(tmp_path / "parts", taken, 8, DIFFUSED)
    run(tmp_path / "parts", taken, 12, DIFFUSED)
    assert same_weights(tmp_path / "whole", tmp_path / "parts")
