"""Tests each recipe on both bases: training, exact resuming, and restoring with and without references."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from curate.faces.align import FFHQ_512, scale_template
from curate.faces.interface import Detection, FaceModels
from manifests.errors import BadInput
from tests.doubles.models.stable_diffusion import SHALLOW, write_mini_sd
from tests.doubles.models.weights import load_backbones_once, random_vgg16
from tests.doubles.training import DIM, finder, models_of, picture, small, snapshot
from train.data.snapshot import Snapshot
from train.fit.loop import train
from train.fit.settings import Settings
from train.models.checkpoint_files import find_newest_checkpoint
from train.models.prompts.dictionary import Dictionary
from train.models.restorer import Restorer
from train.recipes.recipes import DIFFUSION, RECIPES, STYLEGAN_RECIPES, TINY, Recipe
from train.restore import restore_photos
from train.restore.restore_photos import restore


@pytest.fixture(scope="module")
def taken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Snapshot]:
    """Makes a snapshot for each base."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("recipes")
    return {base: snapshot(folder / base, size=small("tiny", base).size) for base in (TINY, DIFFUSION)}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, taken: dict[str, Snapshot]) -> Callable[[Recipe], Settings]:
    """Returns a function that returns the training settings of a recipe.

    The settings name random backbones and a small diffusion model. If the recipe has a prompt, the settings also name a
    run of recipe vre.
    """
    folder = tmp_path_factory.mktemp("settings")
    weights = random_vgg16(folder / "weights")
    bases = {TINY: TINY, DIFFUSION: str(write_mini_sd(folder / "sd", SHALLOW))}

    def of(recipe: Recipe) -> Settings:
        told = Settings(base_model=bases[recipe.base], weights=weights)
        if "vre" not in recipe.parts:
            return told
        run = folder / f"vre-{recipe.base}"
        if not run.exists():
            vre = replace(small("vre", recipe.base), images=8)
            train(run, taken[recipe.base].folder, vre, workers=0, settings=told)
        return replace(told, vre=run)

    return of


NAMES = [name for name in RECIPES if name not in STYLEGAN_RECIPES]
# `make test` trains each recipe on one base, and `make faults` trains it on the other base too.
ONE_BASE = [(name, DIFFUSION if name == "instant" else TINY) for name in NAMES]
OTHER_BASE = [(name, TINY if base == DIFFUSION else DIFFUSION) for name, base in ONE_BASE]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "base"), [*ONE_BASE, *(pytest.param(*case, marks=pytest.mark.exhaustive) for case in OTHER_BASE)]
)
def test_two_steps_in_one_go_are_two_steps_with_a_rest_and_restore(
    tmp_path: Path,
    taken: dict[str, Snapshot],
    settings: Callable[[Recipe], Settings],
    name: str,
    base: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Snapshot, "load_detector", lambda _: finder())
    load_backbones_once(monkeypatch)
    recipe = replace(small(name, base), batch=2)  # half of the usual batch takes half of the time
    told, faces = settings(recipe), taken[base].folder
    whole = train(tmp_path / "whole", faces, recipe, 4, workers=0, settings=told)
    train(tmp_path / "parts", faces, recipe, 2, workers=0, settings=told)
    parts = train(tmp_path / "parts", faces, recipe, 4, workers=0, settings=told)
    files = sorted(path.relative_to(whole.checkpoint) for path in whole.checkpoint.rglob("*.safetensors"))
    assert len(files) == (5 if recipe.discriminator else 3)
    for file in files:
        one, other = load_file(whole.checkpoint / file), load_file(parts.checkpoint / file)
        assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one), file
    lines = [json.loads(line) for line in (tmp_path / "whole" / "stats.jsonl").read_text().splitlines()]
    assert lines  # The validation wrote lines at the start and at the end.
    # A training without any references works too.
    train(tmp_path / "alone", faces, replace(recipe, reference_counts=(0,)), 2, workers=0, settings=told)

    monkeypatch.setattr(
        "train.restore.restorers.face_restorer.load_faces",
        lambda *_, **__: finding(taken[base].folder.parent / "recognizer.onnx"),
    )
    photos = [tmp_path / f"{photo}.png" for photo in range(3)]
    for number, photo in enumerate(photos):
        cv2.imwrite(str(photo), picture(0, number, 96))
    if name == "vre":
        with pytest.raises(BadInput, match="cannot restore faces"):
            restore(photos[:1], [], tmp_path / "whole", tmp_path / "out", aligned=True)
        dictionary, lq = Dictionary.from_pretrained(tmp_path / "whole"), torch.rand(1, 3, 40, 40)
        with torch.no_grad():
            image = dictionary(lq, lq[:, None, :0], torch.zeros(1, 0, dtype=torch.bool), torch.zeros(1, 0, 1)).image
        assert image.shape == lq.shape and dictionary.config.vre == recipe.vre
        return
    # The restorer changes little after so few steps. Without this line, `restore` would undo some of the changes.
    monkeypatch.setattr("train.restore.decisions.coarse_form.READABLE_SHARE", 2.0)
    # Load the restorer only once, because a diffusion base takes half a second to load.
    monkeypatch.setattr(restore_photos, "open_restorer", cache(restore_photos.open_restorer))
    restored = []
    for many in (2, 0):
        out = tmp_path / f"restored-{many}"
        (row,) = restore(photos[:1], photos[1 : 1 + many], tmp_path / "whole", out, aligned=True, always=True)
        assert (row.status, row.reason) == ("ok", None)
        restored.append(cv2.imread(str(out / "0.png")))
    assert restored[0].shape == (recipe.size, recipe.size, 3)
    # Compare the outputs of the model and not the files, because after so few steps references may change pixels by
    # less than one level.
    model, rng = Restorer.from_pretrained(tmp_path / "whole"), torch.Generator().manual_seed(0)
    lq, references = (torch.rand(1, n, 3, recipe.size, recipe.size, generator=rng) for n in (1, 2))
    embeddings, present = torch.nn.functional.normalize(torch.rand(1, 2, DIM, generator=rng), dim=-1), torch.ones(1, 2)
    with torch.no_grad():
        images = [model(lq[:, 0], references[:, :k], present[:, :k].bool(), embeddings[:, :k]).image for k in (2, 0)]
    # only these two recipes use no references
    assert torch.equal(*images) == (name in ("osdface", "idm"))


def finding(recognizer: Path) -> FaceModels:
    """Returns face models with the given recognizer. The models find one face in every picture.

    The landmarks of the face are those of the template, moved by a pixel.
    """

    def detect(image: np.ndarray) -> list[Detection]:
        points = scale_template(FFHQ_512, 512, image.shape[0]).astype(np.float32) + np.array([1.0, -1.0], np.float32)
        return [Detection(np.array([0, 0, image.shape[1], image.shape[0]], np.float32), points, 0.9)]

    return replace(models_of(recognizer), detect=detect)


def test_a_frozen_parameter_is_the_same_after_training(
    tmp_path: Path, taken: dict[str, Snapshot], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[tuple[str, torch.Tensor, torch.nn.Parameter]] = []
    build = Restorer.__init__

    def frozen(self: Restorer, *told: object) -> None:
        build(self, *told)  # type: ignore[arg-type]
        for name, parameter in self.base.named_parameters():
            if "down" in name:
                kept.append((name, parameter.requires_grad_(False).detach().clone(), parameter))

    with monkeypatch.context() as patch:
        patch.setattr(Restorer, "__init__", frozen)
        train(tmp_path, taken[TINY].folder, small("tiny"), 8, workers=0)
    assert kept
    saved = load_file(find_newest_checkpoint(tmp_path) / "training" / "weights.safetensors")
    for name, before, parameter in kept:
        assert torch.equal(parameter, before) and f"base.{name}" not in saved
