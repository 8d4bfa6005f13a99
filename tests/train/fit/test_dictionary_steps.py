"""Tests the training steps of recipe vre (stage 1 of OSDFace): every loss by hand, and which weights get gradients.
Also tests that a run resumes exactly if the association starts during the run.
"""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from manifests.errors import BadInput
from tests.doubles.models.lpips import lpips_by_hand
from tests.doubles.models.weights import random_vgg16
from tests.doubles.training import small
from tests.doubles.training_runs import run, same_weights
from train.data.dataset import TrainingFaces, collate
from train.data.snapshot import Snapshot
from train.data.to_device import to_device
from train.fit.engine import build
from train.fit.settings import Settings
from train.fit.steps.step import compute_gradients
from train.models.prompts.dictionary import Dictionary
from train.recipes.recipe_files import change_recipe
from train.recipes.recipes import find_recipe

RECIPE = replace(small("vre"), batch=2, preset="mild")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_vgg16(tmp_path_factory.mktemp("weights"))


def judge(discriminator: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Returns the logits of a patch discriminator, as in pix2pix, for images in 0..1."""
    x = 2 * images - 1
    for level in discriminator.levels:
        x = F.leaky_relu(F.conv2d(x, level.weight, level.bias, stride=level.stride, padding=1), 0.2)
    return F.conv2d(x, discriminator.last.weight, discriminator.last.bias, padding=1)


@pytest.mark.parametrize("seen", [0, 10**9])
def test_every_loss_of_a_step_by_hand(taken: Snapshot, weights: Path, seen: int) -> None:
    engine = build(RECIPE, 16, 0, Settings(weights=weights), "fp32", None)
    made = TrainingFaces(taken, RECIPE, 0)
    batch = to_device(collate([made[i] for i in range(2)]), torch.device("cpu"))
    judges = engine.discriminator.eval()  # in eval mode, the norms of the weights do not change
    figures = compute_gradients(engine, [batch], seen, 0)
    assert isinstance(engine.model, Dictionary)

    # Our own autoencoders compute the reconstructions (B,3,s,s) and the codebook loss. test_vre.py tests them.
    terms = dict.fromkeys(("reconstruction", "codebook", "reconstruction_lpips", "gan"), torch.zeros(()))
    wrong = torch.zeros(())
    vectors = []
    for vq, network, image in (
        (engine.model.hq, judges.hq, batch["target"]),
        (engine.model.lq, judges.lq, batch["lq"]),
    ):
        vectors.append(vq.encode(2 * image - 1))
        codes, codebook = vq.quantize(vectors[-1])
        again = (vq.decode(codes) + 1) / 2
        terms["codebook"] = terms["codebook"] + codebook
        terms["reconstruction"] = terms["reconstruction"] + (again - image).abs().mean()
        terms["reconstruction_lpips"] = terms["reconstruction_lpips"] + lpips_by_hand(weights, again, image).mean()
        terms["gan"] = terms["gan"] + F.softplus(-judge(network, again)).mean()
        detached = again.detach()
        wrong = wrong + (F.softplus(-judge(network, image)).mean() + F.softplus(judge(network, detached)).mean()) / 4
    for name, term in terms.items():
        assert figures[name].item() == pytest.approx(term.item(), rel=1e-3), name
    assert figures["discriminator"].item() == pytest.approx(wrong.item(), rel=1e-4)

    # As soon as the association has started, it is a part of the total, and the HQ autoencoder is frozen.
    hq, lq = (F.normalize(z.permute(0, 2, 3, 1).flatten(0, 2), dim=1) for z in vectors)
    logits, places = hq.detach() @ lq.t() / 0.07, torch.arange(len(hq))
    association = (F.cross_entropy(logits, places) + F.cross_entropy(logits.t(), places)) / 2
    assert figures["association"].item() == pytest.approx(association.item(), rel=1e-3)
    total = 2 * terms["reconstruction"] + terms["reconstruction_lpips"] + terms["codebook"] + 0.01 * terms["gan"]
    total = total + association * (1 if seen else 0)
    if not seen:
        assert figures["loss"].item() == pytest.approx(total.item() + association.item(), rel=1e-3)
    names = {name: p for name, p in engine.model.named_parameters() if name.endswith("conv_in.weight")}
    gradients = torch.autograd.grad(total, list(names.values()))
    norm = figures["gradient"].item()
    for (name, parameter), gradient in zip(names.items(), gradients, strict=True):
        if seen and name.startswith("hq."):
            assert parameter.grad is None
            continue
        gradient = gradient * min(1, RECIPE.clip / norm)
        torch.testing.assert_close(parameter.grad, gradient, rtol=2e-2, atol=2e-3 * gradient.abs().max().item())
    # The patch discriminators of both autoencoders must get gradients from the discriminator's loss.
    (expected,) = torch.autograd.grad(wrong, judges.lq.last.parametrizations.weight.original)
    clipped = expected * min(1, RECIPE.clip / figures["discriminator_gradient"].item())
    torch.testing.assert_close(judges.lq.last.parametrizations.weight.original.grad, clipped, rtol=1e-2, atol=1e-5)
    assert judges.hq.last.parametrizations.weight.original.grad.abs().sum() > 0


@pytest.mark.exhaustive
def test_a_run_that_rests_after_the_start_of_the_association_ends_in_the_same_weights(
    tmp_path: Path, taken: Snapshot, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("train.models.prompts.dictionary.ALONE", 4 / find_recipe("vre", "tiny").images)
    settings = Settings(precision="fp32", weights=weights)
    states = []
    for folder, images in (("whole", 8), ("parts", 4), ("parts", 6), ("parts", 8)):
        run(tmp_path / folder, taken, images, RECIPE, settings=settings)
        states.append(Dictionary.from_pretrained(tmp_path / folder))
    assert same_weights(tmp_path / "whole", tmp_path / "parts")
    assert states[0].hq_idle.equal(states[1].hq_idle) and not states[0].lq_idle.equal(states[1].lq_idle)


def test_each_term_of_stage_1_can_be_turned_off() -> None:
    recipe = RECIPE
    for path, value in (("loss.gan", 0), ("loss.reconstruction_lpips", 0), ("freeze_hq", False), ("discriminator", "")):
        recipe = change_recipe(recipe, "--change", path, value)
    assert list(recipe.losses) == ["reconstruction", "codebook", "association"] and not recipe.freeze_hq
    for change, said in (("image", "can have only the discriminator dictionary"), ("latent", "only the discriminator")):
        with pytest.raises(BadInput, match=said):
            change_recipe(recipe, "--change", "discriminator", change)
    tiny = find_recipe("tiny")
    for path, value, said in (
        ("discriminator", "dictionary", "recipe tiny cannot have this discriminator"),
        ("freeze_hq", True, "only recipe vre has an HQ autoencoder"),
        ("loss.reconstruction_lpips", 1, "reconstruction_lpips belongs to recipe vre"),
    ):
        with pytest.raises(BadInput, match=said):
            change_recipe(tiny, "--change", path, value)
