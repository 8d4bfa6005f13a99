"""Tests `likeness train` as a user calls it."""

import json
from pathlib import Path

import pytest
import torch

from manifests.errors import BadInput
from tests.doubles.models.stable_diffusion import write_mini_sd
from tests.doubles.training import snapshot
from tests.places import Run
from train.fit.cli import run_training
from train.fit.settings import Settings
from train.recipes.recipes import DIFFUSION, TINY, find_recipe


@pytest.mark.slow
def test_a_dry_run_says_what_would_be_trained_and_writes_nothing(tmp_path: Path, command: Run) -> None:
    taken = snapshot(tmp_path, size=64)
    for source in (taken.folder, tmp_path / "dataset"):
        done = command("train", source, "--size", 64, "--out", tmp_path / "run", "--dry-run")
        assert done.returncode == 0, done.stderr
        assert "Would train tiny at 64 px" in done.stdout
        assert "Targets: 16 train, 4 val. People: 4 train, 1 val." in done.stdout
        mixture = " (clean for 15% of the images) (mild for 30% of the images) (severe for 15% of the images)"
        place = "device" if torch.cuda.is_available() else "workers"
        said = f"Base: tiny. Preset: codeformer{mixture}. Degraded on: {place}. Parts: maps, embedding, extended."
        assert said in done.stdout
        assert (
            "Losses: pixel 2.5, edge 2.5, detail 5, identity 0.1." in done.stdout
            and " trained, 0 frozen." in done.stdout
        )
        assert "activations are measured" in done.stdout and "images/s on" in done.stdout
        # Only a snapshot has the network of the recognizer, so a dry run on a dataset cannot compute this loss.
        assert ("did not compute these losses: identity" in done.stdout) == (source != taken.folder)
    assert not (tmp_path / "run").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dataset", "recognizer.onnx", "snapshot"]


@pytest.mark.slow
def test_what_cannot_be_trained_on_is_a_sentence(tmp_path: Path, command: Run) -> None:
    for words, sentence in (
        ((tmp_path, "--recipe", "huge"), "the recipes are tiny"),
        ((tmp_path,), "likeness curate"),
        ((tmp_path, "--recipe", "osdface"), "needs a base: give --base-model"),
        ((tmp_path, "--preset", "none-such"), "none-such"),
    ):
        done = command("train", *words, "--out", tmp_path / "run")
        assert done.returncode == 2 and sentence in done.stderr and "Traceback" not in done.stderr


def test_a_base_or_an_embedder_that_cannot_be_had_is_said_before_a_snapshot_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("train.data.take_snapshot.take_snapshot", lambda *_, **__: pytest.fail("it was taken"))
    nine = write_mini_sd(tmp_path / "nine", {"in_channels": 9})
    for name, settings, said in (
        ("refine-unet", Settings(base_model=str(nine)), "has 9 input channels and 4 output channels"),
        ("instant", Settings(base_model=str(tmp_path / "nowhere")), "is not a folder"),
        ("osdface", Settings(), "give the folder of this run with --vre RUN"),
    ):
        recipe = find_recipe(name, TINY if settings.base_model == TINY else DIFFUSION)
        with pytest.raises(BadInput, match=said):
            run_training(tmp_path, tmp_path / "run", recipe, None, 0, settings=settings)


@pytest.mark.slow
def test_a_folder_that_is_no_run_is_refused_and_left_as_it_is(tmp_path: Path, command: Run) -> None:
    taken = snapshot(tmp_path, size=64)
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "holiday.jpg").write_bytes(b"irreplaceable")
    for source, options, said in (
        (tmp_path / "dataset", ("--out", mine), "not a training run: it contains holiday.jpg"),
        (taken.folder, ("--out", mine), "not a training run"),
        (taken.folder, ("--out", tmp_path / "dataset"), "not a training run"),
        (taken.folder, ("--out", mine / "holiday.jpg"), "holiday.jpg is a file"),
        (tmp_path / "dataset", ("--out", mine / "holiday.jpg" / "run"), "holiday.jpg is a file"),
        (tmp_path / "dataset", ("--out", tmp_path / "run", "--snapshot", mine), "contains files but no snapshot"),
        (mine / "holiday.jpg", ("--out", tmp_path / "run"), "holiday.jpg is a file"),
    ):
        for dry in ((),) if "--snapshot" in options else ((), ("--dry-run",)):
            done = command("train", source, *options, *dry)
            assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert [(path.name, path.read_bytes()) for path in mine.iterdir()] == [("holiday.jpg", b"irreplaceable")]
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_same_command_again_resumes_and_another_seed_is_refused(tmp_path: Path, command: Run) -> None:
    taken = snapshot(tmp_path, size=64)
    words = ("train", taken.folder, "--out", tmp_path / "run", "--size", "64", "--images", "16")
    first = command(*words)
    assert first.returncode == 0, first.stderr
    assert "trained: 16 images seen" in first.stdout and "waiting for data" in first.stdout
    second = command(*words[:-1], "32")
    assert second.returncode == 0 and "Resuming" in second.stdout, second.stderr
    assert (tmp_path / "run" / "checkpoint-00000032").is_dir()
    third = command(*words, "--seed", "1")
    assert third.returncode == 2 and "belongs to another seed" in third.stderr


@pytest.mark.slow
def test_what_a_run_is_told_is_recorded_and_held(tmp_path: Path, command: Run) -> None:
    taken = snapshot(tmp_path, size=64)
    words = ("train", taken.folder, "--out", tmp_path / "run", "--size", "64", "--images", "16", "--preset", "severe")
    told = command(*words, "--accumulate", "2", "--precision", "bf16", "--no-identity")
    assert told.returncode == 0, told.stderr
    assert "the loss identity is off, because --no-identity was given" in told.stdout
    facts = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (facts["recipe"]["preset"], facts["accumulate"], facts["precision"]) == ("severe", 2, "bf16")
    other = command(*words[:-1], "codeformer", "--no-identity")
    assert other.returncode == 2 and "(the preset is severe there, and codeformer here)" in other.stderr
    wrong = command(*words, "--accumulate", "5")
    assert wrong.returncode == 2 and "A batch of 8 cannot be shared" in wrong.stderr
