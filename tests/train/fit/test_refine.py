"""Tests recipe refine: ReFine's generator is trained, resumed, saved and restored, with IR-SE50 as identity encoder."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import train.recipes.model_configs
from manifests.errors import BadInput
from tests.doubles.models.refinefir import ENCODER, encode_identity, make_encoder
from tests.doubles.models.weights import random_vgg16
from tests.doubles.training import finder, snapshot
from tests.doubles.training_runs import lines, run, same_weights
from train.data.dataset import TrainingFaces, collate, to_device
from train.data.snapshot import Snapshot
from train.fit.objective import check_weights
from train.fit.reference_embeddings import embed_references
from train.fit.settings import Settings
from train.models.released.ir_se50 import load_ir_se50
from train.models.restorer import Restorer
from train.recipes.recipes import Recipe, find_recipe

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


def test_three_steps_in_one_go_are_three_steps_with_a_rest(tmp_path: Path, faces: Snapshot, weights: Path) -> None:
    settings = Settings(precision="fp32", weights=weights)
    run(tmp_path / "whole", faces, 6, REFINE, settings=settings)
    run(tmp_path / "parts", faces, 2, REFINE, settings=settings)
    run(tmp_path / "parts", faces, 6, REFINE, settings=settings)
    assert same_weights(tmp_path / "whole", tmp_path / "parts")
    assert lines(tmp_path / "whole", "val")[-1]["identity_restored"] <= 1

    # The checkpoint restores alone: it has the noise maps and the identity encoder.
    model = Restorer.from_pretrained(tmp_path / "whole")
    assert isinstance(model.identity_encoder, nn.Module) and not model.identity_encoder.network.training
    assert model.facts["needs_reference"] and model.config.most_references == 1
    images = torch.rand(2, 3, 64, 64)
    expected = encode_identity(torch.load(weights / "model_ir_se50.pth"), 2 * images - 1)
    torch.testing.assert_close(model.identity_encoder(images), expected, atol=1e-5, rtol=0)
    lq, present = torch.rand(1, 3, 64, 64), torch.ones(1, 1, dtype=torch.bool)
    done = [model(lq, image[None, None], present, expected[i][None, None]).image for i, image in enumerate(images)]
    assert done[0].shape == lq.shape and not torch.equal(*done)


def test_a_laptop_needs_no_ir_se50(tmp_path: Path, faces: Snapshot, weights: Path) -> None:
    recipe = replace(find_recipe("refine-small"), **CHANGES)
    run(tmp_path, faces, 2, recipe, settings=Settings(precision="fp32", weights=weights))
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
        # The picture is one of the crops of the snapshot, mirrored in half of the samples, independent of the target.
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
