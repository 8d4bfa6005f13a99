"""Tests where a training degrades its targets: in the worker processes, or on the device of the training."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import train.data.dataset
import train.data.to_device
import train.fit.settings
from manifests.errors import BadInput
from tests.doubles.training import SMALL
from tests.doubles.training_runs import run, same_weights
from train.data.snapshot import Snapshot
from train.fit.settings import Settings, resolve_degrade_on
from train.recipes.recipes import RECIPES, find_recipe

ON_DEVICE = Settings(precision="fp32", degrade_on="device")


def test_a_training_degrades_on_its_device_and_resumes_exactly(
    tmp_path: Path, taken: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact, degrade, calls = train.data.dataset.apply, train.data.to_device.degrade, {"worker": 0, "device": 0}

    def count_exact(*arguments: object) -> object:
        calls["worker"] += 1
        return exact(*arguments)

    def count_device(images: torch.Tensor, *arguments: object, **options: object) -> torch.Tensor:
        calls["device"] += len(images)
        return degrade(images, *arguments, **options)

    monkeypatch.setattr(train.data.dataset, "apply", count_exact)
    monkeypatch.setattr(train.data.to_device, "degrade", count_device)
    run(tmp_path / "one", taken, 8, settings=ON_DEVICE)
    # The exact engine degrades only the four fixed faces of the validation.
    assert calls == {"worker": 4, "device": 8}
    assert json.loads((tmp_path / "one" / "config.json").read_text())["degrade_on"] == "device"
    run(tmp_path / "two", taken, 4, settings=ON_DEVICE)
    with pytest.raises(BadInput, match="belongs to another value of --degrade-on"):
        run(tmp_path / "two", taken, 8, settings=replace(ON_DEVICE, degrade_on="workers"))
    # Without --degrade-on, a run continues with its own value.
    run(tmp_path / "two", taken, 8, settings=Settings(precision="fp32"))
    assert same_weights(tmp_path / "one", tmp_path / "two")


def test_a_run_of_an_earlier_version_continues_in_the_workers(
    tmp_path: Path, taken: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path, taken, 4)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({n: v for n, v in json.loads(path.read_text()).items() if n != "degrade_on"}))
    monkeypatch.setattr(train.fit.settings.torch.cuda, "is_available", lambda: True)
    facts = train.fit.settings.claim_run(tmp_path, taken, SMALL, 0, Settings(precision="fp32"), print)
    assert facts["degrade_on"] == "workers"


def test_a_gpu_degrades_unless_the_workers_need_the_degraded_face(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_degrade_on(SMALL, Settings()) == "workers"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    chosen = {name: resolve_degrade_on(find_recipe(name), Settings()) for name in ("tiny", "refine")}
    chosen |= {n: resolve_degrade_on(find_recipe(n, "diffusion"), Settings()) for n in RECIPES if n not in STYLEGAN}
    assert {name for name, place in chosen.items() if place == "workers"} == {"refine", "refine-unet"}
    assert resolve_degrade_on(SMALL, Settings(degrade_on="workers")) == "workers"


STYLEGAN = ("refine", "refine-small")


@pytest.mark.parametrize(
    ("place", "parts", "says"),
    [("gpu", (), "--degrade-on gpu is unknown: give workers or device"), ("device", ("warped",), "only the workers")],
)
def test_an_impossible_place_is_a_sentence(place: str, parts: tuple[str, ...], says: str) -> None:
    with pytest.raises(BadInput, match=says):
        train.fit.settings.resolve_settings(
            replace(SMALL, parts=(*SMALL.parts, *parts)), Settings(degrade_on=place, precision="fp32")
        )
