"""Tests recipe refine: its losses, its discriminator with R1, its start, and that its training resumes exactly.

The tests compute the losses again by the published order of operations, without the networks of Likeness
(tests/doubles/models/refinefir.py).
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import train.fit.settings
import train.recipes.model_configs
from degrade.engines import differentiable
from manifests.errors import BadInput
from tests.doubles.models.lpips import lpips_by_hand
from tests.doubles.models.refinefir import (
    ENCODER,
    SHAPE,
    encode_identity,
    judge,
    make_discriminator,
    make_encoder,
    make_generator,
)
from tests.doubles.models.weights import random_vgg16
from tests.doubles.training import finder, snapshot
from tests.doubles.training_runs import lines, run, same_weights
from train.data.dataset import TrainingFaces, collate
from train.data.snapshot import Snapshot
from train.data.tensors import to_image
from train.data.to_device import to_device
from train.fit.engine import build
from train.fit.objective import check_weights
from train.fit.settings import Settings, resolve_settings
from train.fit.steps.gradient_penalty import compute_penalty_gradients, is_penalty_due
from train.fit.steps.reference_embeddings import embed_references
from train.fit.steps.step import compute_gradients
from train.models.released.ir_se50 import load_ir_se50
from train.models.restorer import Restorer
from train.recipes.recipes import Recipe, find_recipe
from train.restore.references.reference_photos import References, join_references, limit_references
from train.restore.restorers.load_restorer import run_model

CHANGES = {"size": 64, "channel_limit": 8, "batch": 2, "images": 6, "ema": 4, "preset": "mild"}
REFINE: Recipe = replace(find_recipe("refine"), **CHANGES)


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    return snapshot(tmp_path_factory.mktemp("refine"), size=REFINE.size)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = random_vgg16(tmp_path_factory.mktemp("weights"))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(make_encoder(), folder / "model_ir_se50.pth")
    return folder


@pytest.fixture(autouse=True)
def small_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train.recipes.model_configs, "IR_SE50", ENCODER)
    monkeypatch.setattr(Snapshot, "load_detector", lambda _: finder())


def test_two_steps_in_one_go_are_two_steps_with_a_rest(tmp_path: Path, faces: Snapshot, weights: Path) -> None:
    settings, recipe = Settings(precision="fp32", weights=weights), replace(REFINE, r1_every=2)
    run(tmp_path / "whole", faces, 4, recipe, settings=settings)
    run(tmp_path / "parts", faces, 2, recipe, settings=settings)
    run(tmp_path / "parts", faces, 4, recipe, settings=settings)
    assert same_weights(tmp_path / "whole", tmp_path / "parts")
    assert lines(tmp_path / "whole", "val")[-1]["identity_restored"] <= 1

    # A checkpoint contains the noise maps and the identity encoder, so `restore` needs no other file.
    model = Restorer.from_pretrained(tmp_path / "whole")
    assert isinstance(model.identity_encoder, nn.Module) and not model.identity_encoder.network.training
    assert model.facts["needs_reference"] and model.config.most_references == 1
    images = torch.rand(2, 3, 64, 64)
    expected = encode_identity(torch.load(weights / "model_ir_se50.pth"), 2 * images - 1)
    torch.testing.assert_close(model.identity_encoder(images), expected, atol=1e-5, rtol=0)
    lq, present = torch.rand(1, 3, 64, 64), torch.ones(1, 1, dtype=torch.bool)
    done = [model(lq, image[None, None], present, expected[i][None, None]).image for i, image in enumerate(images)]
    assert done[0].shape == lq.shape and not torch.equal(*done)
    # `evaluate` also restores without references. Its recognizer's embeddings can have another length.
    assert run_model(model, lq, join_references((), 64, ENCODER.dim + 1)).isfinite().all()
    crops, vectors = np.stack([to_image(images[0])] * 3), expected[[0, 1, 1]].numpy()
    one = limit_references(model.config, References(crops, vectors))
    assert np.array_equal(one.crops, crops[:1]) and np.array_equal(one.embeddings, vectors[:1])


def test_every_loss_of_a_step_by_hand(faces: Snapshot, weights: Path) -> None:
    engine = build(REFINE, 16, 0, Settings(weights=weights), "fp32", None)
    made = TrainingFaces(faces, REFINE, 0)
    batch = to_device(collate([made[i] for i in range(4)]), torch.device("cpu"))
    figures = compute_gradients(engine, [batch], 0, 0)

    # Our own networks compute the restored faces (B,3,S,S) in 0..1, with gradients. test_stylegan.py and
    # test_refinefir.py test these networks.
    state = torch.load(weights / "model_ir_se50.pth")
    identity = encode_identity(state, 2 * batch["unwarped"][:, 0] - 1)
    model = engine.model
    generated = model.base.generator(2 * torch.cat([batch["lq"], batch["references"][:, 0]], 1) - 1, identity)
    restored = torch.where(batch["valid"], (generated + 1) / 2, batch["target"])
    images = {"target": batch["target"], "reference": batch["references"][:, 0], "lq": batch["lq"]}
    degraded = differentiable.apply(restored.clamp(0, 1), batch["theta"])
    network = engine.discriminator.network
    judged = {name: value.detach().clone() for name, value in network.state_dict().items()}
    terms = {
        "spatial_min": torch.minimum(
            lpips_by_hand(weights, restored, images["target"]), lpips_by_hand(weights, restored, images["reference"])
        ).mean(),
        "cycle": lpips_by_hand(weights, degraded, images["lq"]).mean(),
        "reference_identity": (1 - (encode_identity(state, 2 * restored - 1) * identity).sum(1)).mean(),
        "gan": F.softplus(-judge(judged, 2 * restored - 1)).mean(),
    }
    for name, term in terms.items():
        assert figures[name].item() == pytest.approx(term.item(), rel=1e-4), name
    total = 10 * terms["spatial_min"] + 20 * terms["cycle"] + terms["reference_identity"] + terms["gan"]
    assert figures["loss"].item() == pytest.approx(total.item(), rel=1e-4)

    # The generator gets the gradient of the total loss, and its norm is not clipped.
    (parameter,) = (p for name, p in model.named_parameters() if name.endswith("decoder.conv1.conv.weight"))
    (gradient,) = torch.autograd.grad(total, parameter)
    assert parameter.grad is not None
    # A rounding can move a single value over the kink of a ReLU, so the whole gradients are compared.
    assert float((parameter.grad - gradient).norm()) < 5e-3 * float(gradient.norm())

    # The discriminator gets gradients only from its own loss. It judges true and restored faces in two calls.
    last = {name: judged[name].requires_grad_() for name in ("final_linear.1.weight", "convs.0.0.weight")}
    true, made_up = judge(judged, 2 * batch["target"] - 1), judge(judged, 2 * restored.detach() - 1)
    loss = (F.softplus(-true).mean() + F.softplus(made_up).mean()) / 2
    assert figures["discriminator"].item() == pytest.approx(loss.item(), rel=1e-4)
    for name, expected in zip(last, torch.autograd.grad(loss, list(last.values())), strict=True):
        torch.testing.assert_close(network.get_parameter(name).grad, expected, rtol=1e-3, atol=1e-6)

    # R1 has the weight 10 / 2. It is multiplied by 16, because it is computed only in every 16th step, and divided by
    # 2, as is the other loss of the discriminator.
    compute_penalty_gradients(engine, [batch])
    target = (2 * batch["target"] - 1).requires_grad_()
    (slope,) = torch.autograd.grad(judge(judged, target).sum(), target, create_graph=True)
    penalty = 10 / 2 * 16 / 2 * slope.square().sum((1, 2, 3)).mean()
    for name, expected in zip(last, torch.autograd.grad(penalty, list(last.values())), strict=True):
        torch.testing.assert_close(network.get_parameter(name).grad, expected, rtol=1e-3, atol=1e-6)
    assert network.get_parameter("final_linear.1.bias").grad == 0


def test_r1_is_due_at_every_sixteenth_step() -> None:
    recipe = find_recipe("refine")
    due = [step for step in range(50) if is_penalty_due(recipe, step * recipe.batch)]
    assert due == [0, 16, 32, 48]
    assert not is_penalty_due(find_recipe("refine-unet", "tiny"), 0)


def write_stylegan2(folder: Path) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Writes a small generator and its discriminator in the layout of StyleGAN2's file. Returns their weights."""
    state = {name.removeprefix("decoder."): v for name, v in make_generator().items() if name.startswith("decoder.")}
    released = {name: v for name, v in state.items() if not name.startswith("fuser")}
    judging = make_discriminator()
    torch.save({"g_ema": released, "d": judging}, folder / "stylegan2-256-550000.pt")
    return released, judging


def test_training_starts_from_stylegan2_and_then_its_decoder_is_slower(
    tmp_path: Path, faces: Snapshot, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(precision="fp32", weights=weights, start=tmp_path)
    with pytest.raises(BadInput, match=r"needs size 256 and channel_limit 512.*has size 64 and channel_limit 8"):
        run(tmp_path / "run", faces, 2, REFINE, settings=settings)
    with pytest.raises(BadInput, match="tiny has no StyleGAN2 decoder"):
        resolve_settings(find_recipe("tiny"), settings)
    monkeypatch.setattr(train.fit.settings, "REFINEFIR", SHAPE)
    with pytest.raises(BadInput, match="contains no stylegan2-256-550000"):
        run(tmp_path / "run", faces, 2, REFINE, settings=settings)
    released, judging = write_stylegan2(tmp_path)

    engine = build(REFINE, 16, 0, settings, "fp32", None)
    decoder, network = engine.model.base.generator.decoder, engine.discriminator.network
    assert torch.equal(decoder.convs[0].conv.weight, released["convs.0.conv.weight"])
    assert torch.equal(network.final_conv[0].weight, judging["final_conv.0.weight"])
    shares = {id(p): group["share"] for group in engine.optimizer.param_groups for p in group["params"]}
    assert shares[id(decoder.convs[0].conv.weight)] == 0.2 and shares[id(decoder.fuser1.conv[0].weight)] == 1
    assert shares[id(engine.model.base.generator.encoder.conv1[0].weight)] == 1
    assert len(shares) == len([p for p in engine.model.parameters() if p.requires_grad])


@pytest.mark.exhaustive
def test_a_training_that_starts_from_stylegan2_resumes_exactly(
    tmp_path: Path, faces: Snapshot, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tests a resumed run whose optimizer has the parameters in another order than the model."""
    monkeypatch.setattr(train.fit.settings, "REFINEFIR", SHAPE)
    settings = Settings(precision="fp32", weights=weights, start=tmp_path)
    write_stylegan2(tmp_path)
    run(tmp_path / "whole", faces, 4, REFINE, settings=settings)
    run(tmp_path / "parts", faces, 2, REFINE, settings=settings)
    run(tmp_path / "parts", faces, 4, REFINE, settings=settings)
    assert same_weights(tmp_path / "whole", tmp_path / "parts")
    with pytest.raises(BadInput, match="belongs to another start"):
        run(tmp_path / "parts", faces, 6, REFINE, settings=replace(settings, start=None))


def test_a_laptop_needs_no_ir_se50(tmp_path: Path, faces: Snapshot, weights: Path) -> None:
    recipe = replace(find_recipe("refine-small"), **CHANGES)
    run(tmp_path, faces, 2, recipe, settings=Settings(precision="bf16", weights=weights))
    facts = json.loads((tmp_path / "config.json").read_text())
    assert facts["base_model"] == "stylegan" and facts["identity_encoder"] is None
    assert Restorer.from_pretrained(tmp_path).identity_encoder is None


def test_the_identity_encoder_sees_the_gray_reference_before_the_warp(faces: Snapshot, weights: Path) -> None:
    made = TrainingFaces(faces, REFINE, 0)
    batch = to_device(collate([made[i] for i in range(8)]), torch.device("cpu"))
    encoder = load_ir_se50(weights / "model_ir_se50.pth", ENCODER)
    done = embed_references(encoder, batch)["embeddings"]
    state = torch.load(weights / "model_ir_se50.pth")
    mirrored = 0
    for i in range(8):
        # The picture is a crop of the snapshot, of the target's person or of another person. In half of the samples,
        # the picture is mirrored.
        picture = batch["unwarped"][i, 0]
        crops = torch.from_numpy(faces.crops / 255).permute(0, 3, 1, 2).float()
        plain, turned = (bool((crops == p).flatten(1).all(1).any()) for p in (picture, picture.flip(-1)))
        assert plain or turned
        mirrored += turned
        torch.testing.assert_close(done[i, 0], encode_identity(state, 2 * picture[None] - 1)[0], atol=1e-5, rtol=0)
    assert 0 < mirrored < 8


@pytest.mark.parametrize("name", ["refine", "tiny"])
def test_a_missing_ir_se50_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    recipe = replace(find_recipe(name), losses={"identity": 1.0}, identity_encoder="ir_se50")
    with pytest.raises(BadInput, match=r"model_ir_se50.pth, which is missing.*--weights FOLDER.*=recognizer"):
        check_weights(recipe, None)
