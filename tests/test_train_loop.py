"""Training: it ends where it should, resumes exactly, and stops with a sentence where it must."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from train_doubles import SMALL, snapshot

import train.loop
from manifests.errors import BadInput, LikenessError
from train.checkpoint import checkpoints, load_checkpoint, newest_checkpoint, save_checkpoint
from train.loop import Diverged, Ending
from train.loop import train as run_training
from train.models.restorer import Restorer
from train.recipes import Recipe, ema_decay, find_recipe, model_config, rate_at
from train.snapshot import Snapshot

TRAINING = ("model.safetensors", "training/weights.safetensors", "training/optimizer.safetensors")


@pytest.fixture(scope="module")
def taken(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    return snapshot(tmp_path_factory.mktemp("loop"))


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def run(where: Path, taken: Snapshot, images: int = 24, recipe: Recipe = SMALL, **options) -> Ending:  # type: ignore[no-untyped-def]
    return run_training(where, taken.folder, recipe, images, **{"workers": 0, "checkpoint_every": 8, **options})


def same_weights(a: Path, b: Path) -> bool:
    for name in TRAINING:
        one, other = load_file(newest_checkpoint(a) / name), load_file(newest_checkpoint(b) / name)
        if one.keys() != other.keys() or not all(torch.equal(one[key], other[key]) for key in one):
            return False
    return newest_checkpoint(a).name == newest_checkpoint(b).name


def lines(where: Path, kind: str) -> list[dict[str, float]]:
    found = [json.loads(line) for line in (where / "stats.jsonl").read_text().splitlines()]
    return [line for line in found if line["kind"] == kind]


def test_a_run_leaves_what_the_design_says(tmp_path: Path, taken: Snapshot) -> None:
    shown: list[tuple[str, int, int]] = []
    ending = run(tmp_path, taken, report=lambda *bar: shown.append(bar))
    assert ending.checkpoint == tmp_path / "checkpoint-00000024" and ending.why == "complete"
    assert shown[-1] == ("train", 24, 24)
    assert [path.name for path in checkpoints(tmp_path)] == [f"checkpoint-{n:08d}" for n in (8, 16, 24)]
    assert sorted(path.name for path in (tmp_path / "samples").iterdir()) == [f"{n:08d}.png" for n in (0, 8, 16, 24)]
    assert list(tmp_path.glob("events.out.tfevents.*")) and not list(tmp_path.glob(".*"))
    facts = json.loads((tmp_path / "config.json").read_text())
    assert facts["recipe"]["losses"]["identity"] == 0.1 and facts["snapshot"]["hash"] == taken.hash
    assert facts["identity_loss"]["on"] and facts["recognizer"]["sha256"] == taken.recognizer["sha256"]
    assert [line["images"] for line in lines(tmp_path, "val")] == [0, 8, 16, 24]
    assert {"psnr_lq", "psnr_restored", "identity_alone"} <= lines(tmp_path, "val")[0].keys()
    model = Restorer.from_pretrained(tmp_path)
    assert model.facts["images"] == 24 and model.facts["recognizer"]["sha256"] == taken.recognizer["sha256"]


@pytest.mark.slow
def test_it_learns(tmp_path: Path, taken: Snapshot) -> None:
    run(tmp_path, taken, 600, replace(SMALL, warmup=40, decay_from=4000, rate=5e-3, ema=40), checkpoint_every=300)
    first, *_, last = lines(tmp_path, "val")
    assert last["psnr_restored"] > first["psnr_lq"] + 0.5


def test_interrupted_and_uninterrupted_runs_end_in_the_same_weights(tmp_path: Path, taken: Snapshot) -> None:
    run(tmp_path / "whole", taken)
    run(tmp_path / "parts", taken, 12)  # 12 is between two regular checkpoints
    run(tmp_path / "parts", taken, workers=1)
    assert same_weights(tmp_path / "whole", tmp_path / "parts")
    again = run(tmp_path / "parts", taken)
    assert again.images_per_second == 0 and again.why == "complete"


def test_a_signal_ends_it_with_a_checkpoint(tmp_path: Path, taken: Snapshot) -> None:
    told: list[str] = []

    def interrupt(_: str, done: int, __: int) -> None:
        if done == 12:
            signal.raise_signal(signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    ending = run(tmp_path / "run", taken, report=interrupt, say=told.append)
    assert (ending.images, ending.why) == (12, "SIGTERM") and "resumes from checkpoint-00000012" in told[-1]
    assert signal.getsignal(signal.SIGTERM) == before
    run(tmp_path / "run", taken)
    run(tmp_path / "whole", taken)
    assert same_weights(tmp_path / "run", tmp_path / "whole")


def test_minutes_end_it_with_a_checkpoint(tmp_path: Path, taken: Snapshot) -> None:
    ending = run(tmp_path, taken, minutes=0.0)
    assert (ending.images, ending.why, ending.checkpoint.name) == (4, "minutes", "checkpoint-00000004")


@pytest.mark.slow
def test_killed_stopped_and_resumed_it_ends_in_the_weights_of_an_unbroken_run(tmp_path: Path, taken: Snapshot) -> None:
    double, broken = Path(__file__).with_name("train_doubles.py"), tmp_path / "broken"
    command = [sys.executable, str(double), str(taken.folder), str(broken), "400"]
    environment = {**os.environ, "PYTHONPATH": str(double.parent.parent)}

    def signalled(kind: signal.Signals, after: str) -> int:
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, start_new_session=True)
        until = time.monotonic() + 120
        while not (broken / after).is_dir() and time.monotonic() < until:
            time.sleep(0.005)
        os.killpg(process.pid, kind)  # the trainer and its workers at once, as a terminal or a scheduler does
        return process.wait(60)

    assert signalled(signal.SIGKILL, "checkpoint-00000040") == -signal.SIGKILL
    # what a kill in the middle of writing leaves
    (broken / ".checkpoint-00000400.1.tmp").mkdir()
    with (broken / "stats.jsonl").open("a") as file:
        file.write('{"kind": "tr')
    assert signalled(signal.SIGTERM, "checkpoint-00000120") == 0
    assert not (broken / "checkpoint-00000400").exists()
    subprocess.run(command, env=environment, check=True, capture_output=True)
    run(tmp_path / "whole", taken, 400, checkpoint_every=40)
    assert same_weights(broken, tmp_path / "whole")
    regular = [line["images"] for line in lines(broken, "val") if line["images"] % 40 == 0]
    assert regular == list(range(0, 401, 40))
    assert not list(broken.glob(".checkpoint*"))


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("recipe", {"recipe": replace(SMALL, losses={"pixel": 1.0})}),
        ("seed", {"seed": 1}),
        ("identity loss", {"identity": False}),
    ],
)
def test_a_folder_of_another_run_is_refused(tmp_path: Path, taken: Snapshot, what: str, change: dict) -> None:  # type: ignore[type-arg]
    run(tmp_path, taken, 4)
    with pytest.raises(BadInput, match=f"belongs to another {what}"):
        run(tmp_path, taken, 8, **change)


def test_a_loss_that_is_no_number_stops_it_and_the_last_checkpoint_stays(
    tmp_path: Path, taken: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest, calls = train.loop.edge_loss, []

    def breaks(restored: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return honest(restored, target) * (float("nan") if len(calls) == 4 else 1)

    monkeypatch.setattr(train.loop, "edge_loss", breaks)
    with pytest.raises(Diverged, match=r"after 12 images: edge, gradient of the next batch .*faces 0") as stopped:
        run(tmp_path, taken)
    assert "pixel" not in str(stopped.value)
    assert newest_checkpoint(tmp_path).name == "checkpoint-00000008"


def test_without_an_onnx_file_the_identity_loss_is_off_and_says_so(tmp_path: Path) -> None:
    told: list[str] = []
    run(tmp_path / "run", snapshot(tmp_path, differentiable=False), 4, say=told.append)
    assert "no identity loss" in told[0] and "no ONNX file" in told[0]
    facts = json.loads((tmp_path / "run" / "config.json").read_text())
    assert facts["identity_loss"] == {"on": False, "why": "the recognizer double has no ONNX file to differentiate"}
    assert "identity_lq" not in lines(tmp_path / "run", "val")[0]


def test_every_trainable_parameter_learns_and_the_recognizer_does_not(
    tmp_path: Path, taken: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = []
    load = train.loop.load_recognizer

    def watched(*arguments):  # type: ignore[no-untyped-def]
        recognizer = load(*arguments)
        kept.append((recognizer, {name: p.clone() for name, p in recognizer.named_parameters()}))
        return recognizer

    monkeypatch.setattr(train.loop, "load_recognizer", watched)
    run(tmp_path, taken, 40)
    torch.manual_seed(0)
    before = Restorer(model_config(SMALL, 16)).state_dict()
    after = load_file(newest_checkpoint(tmp_path) / TRAINING[1])
    assert [name for name in before if torch.equal(before[name], after[name])] == []
    recognizer, frozen = kept[0]
    for name, parameter in recognizer.named_parameters():
        assert parameter.grad is None and torch.equal(parameter, frozen[name])


def test_a_disk_that_fills_leaves_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, average = Restorer(model_config(SMALL, 16)), Restorer(model_config(SMALL, 16))
    optimizer = torch.optim.AdamW(model.parameters())
    save_checkpoint(tmp_path, 8, model, average, optimizer)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("train.checkpoint.save_file", full)
    with pytest.raises(LikenessError, match="No space left on device"):
        save_checkpoint(tmp_path, 16, model, average, optimizer)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-00000008"]
    assert load_checkpoint(newest_checkpoint(tmp_path), model, average, optimizer) == 8


def test_schedules_follow_images_and_nothing_else() -> None:
    tiny = find_recipe("tiny")
    assert rate_at(tiny, 0) == pytest.approx(tiny.rate * tiny.batch / tiny.warmup)
    assert rate_at(tiny, tiny.warmup) == rate_at(tiny, tiny.decay_from) == tiny.rate
    assert rate_at(tiny, 4 * tiny.decay_from) == pytest.approx(tiny.rate / 2)
    assert ema_decay(tiny, 10**9) ** (tiny.ema / tiny.batch) == pytest.approx(0.5)
    assert ema_decay(tiny, 0) < 1e-3
