"""Tests that training ends where it should, resumes exactly, and stops with an error message if it must."""

import json
import os
import shutil
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode

import train.data.dataset
import train.fit.engine
import train.fit.loop
import train.fit.steps.step
from manifests.errors import BadInput, LikenessError
from tests.doubles.commands.forked_commands import Process, start_python
from tests.doubles.training import ADVERSARIAL, SMALL, finder, snapshot
from tests.doubles.training_runs import lines, run, same_weights
from tests.places import REPOSITORY
from train.data.dataset import TrainingFaces
from train.data.sampling import draw_sample
from train.data.snapshot import Snapshot
from train.fit.log.figures import Diverged
from train.fit.objective import Objective
from train.fit.settings import Settings
from train.models.checkpoint_files import find_newest_checkpoint, list_checkpoints
from train.models.io import Restoration
from train.models.restorer import Restorer
from train.recipes.model_configs import build_model_config
from train.recipes.recipes import Recipe, find_recipe
from train.recipes.schedules import compute_ema_decay, compute_rate

WEIGHTS = "training/weights.safetensors"


def test_a_run_leaves_what_the_design_says(tmp_path: Path, taken: Snapshot) -> None:
    shown: list[tuple[str, int, int]] = []
    ending = run(tmp_path, taken, progress=lambda *bar: shown.append(bar))
    assert ending.checkpoint == tmp_path / "checkpoint-00000024" and ending.reason == "complete"
    assert shown[-1] == ("train", 24, 24)
    assert [path.name for path in list_checkpoints(tmp_path)] == [f"checkpoint-{n:08d}" for n in (8, 16, 24)]
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
    run(tmp_path, taken, 160, replace(SMALL, warmup=40, decay_from=4000, rate=5e-3, ema=40), checkpoint_every=160)
    first, last = lines(tmp_path, "val")
    assert last["psnr_restored"] > first["psnr_lq"] + 0.5


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("recipe", {"recipe": replace(SMALL, losses={"pixel": 1.0})}),
        ("seed", {"seed": 1}),
        ("identity loss", {"settings": Settings(identity=False, precision="fp32")}),
        ("precision", {"settings": Settings(precision="bf16")}),
    ],
)
def test_a_folder_of_another_run_is_refused(tmp_path: Path, taken: Snapshot, what: str, change: dict) -> None:  # type: ignore[type-arg]
    run(tmp_path, taken, 4)
    with pytest.raises(BadInput, match=f"belongs to another {what}"):
        run(tmp_path, taken, 8, **change)


def test_a_refused_start_leaves_no_folder_that_refuses_the_next_start(tmp_path: Path, taken: Snapshot) -> None:
    with pytest.raises(BadInput, match="take another snapshot"):
        run(tmp_path / "run", taken, 4, replace(SMALL, size=64))
    assert not (tmp_path / "run").exists()


def break_step(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Makes the loss `edge` of step `number` NaN. Steps are counted from 1."""
    honest, calls = Objective.__call__, []

    def breaks(self: Objective, batch: dict, restored: Restoration) -> dict[str, torch.Tensor]:  # type: ignore[type-arg]
        calls.append(1)
        terms = honest(self, batch, restored)
        return {n: term * float("nan") if len(calls) == number and n == "edge" else term for n, term in terms.items()}

    monkeypatch.setattr(Objective, "__call__", breaks)


def test_a_nan_in_unread_steps_names_step_loss_and_faces_and_reaches_no_checkpoint(
    tmp_path: Path, taken: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Training reads the losses only at the checkpoint after step 8. Step 6 gives NaN, so the weights are broken from
    # then on.
    steps: list[int] = []
    with monkeypatch.context() as broken:
        break_step(broken, 6)
        with pytest.raises(Diverged) as stopped:
            run(tmp_path / "run", taken, 48, checkpoint_every=16, progress=lambda _, done, __: steps.append(done))
    faces = [taken.face_ids[draw_sample(taken, taken.targets("train"), SMALL, 0, i).target] for i in range(20, 24)]
    assert f"faces {', '.join(face[:12] for face in faces)})" in str(stopped.value)
    assert "edge, gradient became NaN or infinite in step 6 (after 20 images" in str(stopped.value)
    assert "pixel" not in str(stopped.value) and steps[-1] == 32
    assert [path.name for path in list_checkpoints(tmp_path / "run")] == ["checkpoint-00000016"]
    assert not (tmp_path / "run" / "samples" / "00000032.png").exists()
    newest = find_newest_checkpoint(tmp_path / "run")
    assert all(tensor.isfinite().all() for path in newest.rglob("*.safetensors") for tensor in load_file(path).values())
    # A training that resumes without the fault ends like an undisturbed training.
    run(tmp_path / "run", taken, 48, checkpoint_every=16)
    run(tmp_path / "whole", taken, 48, checkpoint_every=16)
    assert same_weights(tmp_path / "run", tmp_path / "whole")


def test_a_nan_is_found_at_the_next_line_of_the_log(
    tmp_path: Path, taken: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train.fit.loop, "LOG_EVERY", 8)
    break_step(monkeypatch, 3)
    steps: list[int] = []
    with pytest.raises(Diverged, match=r"step 3 \(after 8 images"):
        run(tmp_path, taken, 400, checkpoint_every=400, progress=lambda _, done, __: steps.append(done))
    # training reads the losses of step 3 only after step 4, after image 16
    assert steps[-1] == 16 and not list_checkpoints(tmp_path)


def test_a_sample_that_is_not_finite_ends_the_training_and_is_not_written(
    tmp_path: Path, taken: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = Restorer.forward

    def breaks(self: Restorer, *inputs: torch.Tensor, **named: torch.Tensor) -> Restoration:
        restored = honest(self, *inputs, **named)
        return restored if self.training else restored._replace(image=restored.image * float("inf"))

    monkeypatch.setattr(Restorer, "forward", breaks)
    with pytest.raises(Diverged, match="stopped after 0 images: a face that was restored for samples/ contains NaN"):
        run(tmp_path, taken, 8)
    assert not list((tmp_path / "samples").glob("*.png")) and not list_checkpoints(tmp_path)


class Waits(TorchDispatchMode):
    """Counts the operations that would make the CPU wait for a GPU.

    Such an operation reads a value of a tensor, or returns a tensor whose size depends on values.
    """

    WAITING = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "unique", "is_nonzero")

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        name = func.__name__.split(".")[0]
        masks = name in ("index", "index_put", "index_put_", "_index_put_impl_") and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        if (name in self.WAITING or masks) and not self.of_torch_itself():
            self.count += 1
        return func(*args, **(kwargs or {}))

    @staticmethod
    def of_torch_itself() -> bool:
        """Returns whether AdamW makes the call. Such a call does not wait for a device, because AdamW's step numbers
        are on the CPU."""
        frame: FrameType | None = sys._getframe()
        while frame is not None and "torch/optim" not in frame.f_code.co_filename:
            frame = frame.f_back
        return frame is not None


@pytest.mark.parametrize(
    "recipe",
    [SMALL, replace(ADVERSARIAL, diffused_timesteps=1000), replace(SMALL, name="denoiser", denoise=True)],
    ids=lambda r: r.name,
)
def test_a_step_waits_for_no_number(
    tmp_path: Path, taken: Snapshot, monkeypatch: pytest.MonkeyPatch, recipe: Recipe
) -> None:
    monkeypatch.setattr(train.fit.loop, "LOG_EVERY", 16)
    waits, reads, by_step = Waits(), [0], list[tuple[int, int]]()

    def count(name: str) -> None:
        honest = getattr(torch.Tensor, name)

        def counted(self: torch.Tensor, *arguments: object) -> Any:
            reads[0] += not Waits.of_torch_itself()
            return honest(self, *arguments)

        monkeypatch.setattr(torch.Tensor, name, counted)

    for name in ("tolist", "item", "cpu", "numpy", "__float__", "__bool__", "__int__"):
        count(name)
    monkeypatch.setattr("accelerate.utils.gather_object", lambda *_: pytest.fail("a step gathers objects"))
    gradients, to_device, counting = train.fit.loop.compute_gradients, train.fit.loop.to_device, [False]

    def begin(*arguments: Any) -> Any:
        waits.count, reads[0], counting[0] = 0, 0, True
        waits.__enter__()
        return gradients(*arguments)

    def end(*arguments: Any) -> Any:  # the next batch is moved to the device after this step has ended
        if counting[0]:
            waits.__exit__(None, None, None)
            by_step.append((waits.count, reads[0]))
        counting[0] = False
        return to_device(*arguments)

    monkeypatch.setattr(train.fit.loop, "compute_gradients", begin)
    monkeypatch.setattr(train.fit.loop, "to_device", end)
    run(tmp_path, taken, 32, recipe, checkpoint_every=400)
    # There are eight steps of four images. Training reads the losses with one .tolist() after the fourth step, and
    # again after the last step, for the checkpoint.
    assert by_step[:7] == [(0, 0)] * 3 + [(0, 1)] + [(0, 0)] * 3


@pytest.mark.parametrize(
    ("name", "said"),
    [("generator_term", "gan, gradient"), ("discriminator_loss", "discriminator, discriminator_gradient")],
)
def test_a_discriminator_that_is_no_number_stops_it_too(
    tmp_path: Path, taken: Snapshot, monkeypatch: pytest.MonkeyPatch, name: str, said: str
) -> None:
    honest = getattr(train.fit.steps.step, name)
    monkeypatch.setattr(train.fit.steps.step, name, lambda *arguments: honest(*arguments) * float("nan"))
    with pytest.raises(Diverged, match=rf"{said}.* became NaN or infinite in step 1 \(after 0 images"):
        run(tmp_path, taken, recipe=ADVERSARIAL)
    assert not list_checkpoints(tmp_path)


@pytest.mark.parametrize("full", ["old lines", "grid", "new lines"])
def test_a_disk_that_fills_under_the_log_is_a_sentence_and_the_last_checkpoint_stays(
    tmp_path: Path, taken: Snapshot, monkeypatch: pytest.MonkeyPatch, full: str
) -> None:
    run(tmp_path, taken, 8)

    def fails(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    if full == "grid":
        (tmp_path / "stats.jsonl").unlink()  # without this file, the next run first writes the whole file
    where = "SummaryWriter.add_scalar" if full == "new lines" else "write_atomically"
    monkeypatch.setattr(f"train.fit.log.logbook.{where}", fails)
    with pytest.raises(
        LikenessError, match=r"log in .* cannot be written \(No space left on device\): the last complete"
    ):
        run(tmp_path, taken, 16)
    assert [path.name for path in list_checkpoints(tmp_path)] == ["checkpoint-00000008"]


def test_without_an_onnx_file_the_identity_loss_is_off_and_says_so(tmp_path: Path) -> None:
    told: list[str] = []
    run(tmp_path / "run", snapshot(tmp_path, differentiable=False), 4, say=told.append)
    assert "the loss identity is off" in told[0] and "no ONNX file" in told[0]
    facts = json.loads((tmp_path / "run" / "config.json").read_text())
    assert facts["identity_loss"] == {
        "on": False,
        "why": "the recognizer double has no ONNX file",
    }
    assert "identity_lq" not in lines(tmp_path / "run", "val")[0]


def test_every_trainable_parameter_learns_and_the_recognizer_does_not(
    tmp_path: Path, taken: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = []
    load = train.fit.engine.load_recognizer

    def watched(*arguments):  # type: ignore[no-untyped-def]
        recognizer = load(*arguments)
        kept.append((recognizer, {name: p.clone() for name, p in recognizer.named_parameters()}))
        return recognizer

    monkeypatch.setattr(train.fit.engine, "load_recognizer", watched)
    run(tmp_path, taken, 40)
    torch.manual_seed(0)
    before = Restorer(build_model_config(SMALL, 16)).state_dict()
    after = load_file(find_newest_checkpoint(tmp_path) / WEIGHTS)
    assert [name for name in before if torch.equal(before[name], after[name])] == []
    recognizer, frozen = kept[0]
    for name, parameter in recognizer.named_parameters():
        assert parameter.grad is None and torch.equal(parameter, frozen[name])


def test_a_discriminator_learns_in_turn_and_is_logged(
    tmp_path: Path, taken: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train.fit.loop, "LOG_EVERY", 16)
    run(tmp_path, taken, 20, ADVERSARIAL, checkpoint_every=400)
    first = lines(tmp_path, "train")[0]
    assert {"loss", "pixel", "gan", "discriminator", "gradient", "discriminator_gradient"} <= first.keys()
    weights = load_file(find_newest_checkpoint(tmp_path) / "training/discriminator.safetensors")
    moments = load_file(find_newest_checkpoint(tmp_path) / "training/discriminator-optimizer.safetensors")
    assert {key.split("|")[0] for key in moments} <= weights.keys()
    assert any(value.any() for key, value in moments.items() if key.endswith("exp_avg"))


def test_what_could_not_be_warped_is_logged(tmp_path: Path, taken: Snapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Snapshot, "load_detector", lambda _: finder())
    monkeypatch.setattr(train.fit.loop, "LOG_EVERY", 8)
    recipe, said = replace(SMALL, parts=(*SMALL.parts, "warped")), list[str]()
    run(tmp_path, taken, 8, recipe, say=said.append)
    assert any("the detector of double on this machine finds the landmarks" in sentence for sentence in said)
    seen = [TrainingFaces(taken, recipe, 0)[index] for index in range(8)]
    (line,) = lines(tmp_path, "train")
    assert line["no_landmarks"] == pytest.approx(sum(not one["found"] for one in seen) / 8)
    # For each of the two steps, a list with 1 for each reference that was not warped, and 0 for each that was warped.
    shares = [
        [float(not warped) for one in step for warped in one["warped"][one["present"]]] for step in (seen[:4], seen[4:])
    ]
    assert line["not_warped"] == pytest.approx(sum(sum(share) / len(share) for share in shares) / 2, abs=1e-5)
    assert 0 < line["not_warped"] < 1


def test_a_batch_in_two_parts_trains_as_one_does(tmp_path: Path, taken: Snapshot) -> None:
    run(tmp_path / "one", taken)
    run(tmp_path / "two", taken, settings=Settings(accumulate=2, precision="fp32"))
    one, two = (load_file(find_newest_checkpoint(tmp_path / name) / WEIGHTS) for name in ("one", "two"))
    for name, weight in one.items():
        assert torch.allclose(weight, two[name], rtol=1e-3, atol=1e-4), name


def test_two_threads_train_as_one_does_and_repeat_every_bit(
    tmp_path: Path, taken: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = set()

    def forward(self: Objective, *args: Any) -> dict[str, torch.Tensor]:
        names.add(threading.current_thread().name)
        return whole(self, *args)

    whole = Objective.forward
    run(tmp_path / "one", taken)
    monkeypatch.setattr(Objective, "forward", forward)
    torch.set_num_threads(2)
    run(tmp_path / "two", taken)
    assert {name.partition("_")[0] for name in names} == {"step"}
    run(tmp_path / "again", taken)
    assert same_weights(tmp_path / "two", tmp_path / "again")
    one, two = (load_file(find_newest_checkpoint(tmp_path / name) / WEIGHTS) for name in ("one", "two"))
    for name, weight in one.items():
        assert torch.allclose(weight, two[name], rtol=1e-3, atol=1e-4), name


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (Settings(accumulate=3), "A batch of 4 cannot be shared by 1 processes in 3 parts"),
        (Settings(precision="fp8"), "--precision fp8 is unknown: give fp32 or bf16"),
        (Settings(vre=Path("run")), "Recipe small has no part vre"),
        (Settings(base_model="sd21"), "cannot be used with --base-model sd21"),
    ],
)
def test_what_does_not_go_together_is_refused_before_anything_is_written(
    tmp_path: Path, taken: Snapshot, settings: Settings, said: str
) -> None:
    with pytest.raises(BadInput, match=said):
        run(tmp_path / "run", taken, settings=settings)
    assert not (tmp_path / "run").exists()


def test_a_prompt_needs_a_run_of_recipe_vre(tmp_path: Path, taken: Snapshot) -> None:
    recipe = replace(SMALL, parts=("vre",))
    with pytest.raises(BadInput, match="give the folder of this run with --vre RUN"):
        run(tmp_path / "run", taken, recipe=recipe)
    run(tmp_path / "other", taken, 4)
    with pytest.raises(BadInput, match="is not a run of recipe vre"):
        run(tmp_path / "run", taken, recipe=recipe, settings=Settings(vre=tmp_path / "other"))


def test_bf16_trains_and_a_resumed_run_keeps_it(tmp_path: Path, taken: Snapshot) -> None:
    run(tmp_path, taken, 8, settings=Settings(precision="bf16"))
    # without --precision, a run continues with its own precision
    run(tmp_path, taken, 16, settings=Settings())
    assert json.loads((tmp_path / "config.json").read_text())["precision"] == "bf16"
    assert {value.dtype for value in load_file(find_newest_checkpoint(tmp_path) / WEIGHTS).values()} == {torch.float32}


def test_a_model_that_cannot_be_compiled_is_a_sentence(
    tmp_path: Path, taken: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise torch._dynamo.exc.Unsupported("no compiler")

    monkeypatch.setattr(Restorer, "forward", fails)
    monkeypatch.setattr(train.fit.loop, "validate", lambda *_, **__: None)
    monkeypatch.setattr(Restorer, "compile", lambda _: None)
    with pytest.raises(LikenessError, match=r"cannot compile this model here \(no compiler\): leave --compile out"):
        run(tmp_path, taken, settings=Settings(compile=True))


def launch_two(taken: Snapshot, run: Path, images: int) -> Process:
    """Starts a training of the recipe ADVERSARIAL in two processes."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    return start_python(["-m", "tests.doubles.training", str(taken.folder), str(run), str(images), "2"], environment)


@pytest.mark.slow
def test_two_processes_train_as_one_does_and_a_signal_to_one_ends_both_and_one_resumes(
    tmp_path: Path, taken: Snapshot
) -> None:
    process = launch_two(taken, tmp_path / "two", 4000)
    until = time.monotonic() + 300
    while not list_checkpoints(tmp_path / "two") and time.monotonic() < until:
        time.sleep(0.05)
    os.kill(int((tmp_path / "two.1").read_text()), signal.SIGTERM)
    assert process.wait(300) == 0
    newest = find_newest_checkpoint(tmp_path / "two")
    images = json.loads((newest / "training" / "state.json").read_text())["images"]
    assert images < 4000
    assert not list((tmp_path / "two").glob(".checkpoint*"))
    assert json.loads((tmp_path / "two" / "config.json").read_text())["processes"] == 2
    measured = [line["images"] for line in lines(tmp_path / "two", "val")]
    # only the first process writes, so each number of images occurs once
    assert measured[:2] == [0, 40] and measured == sorted({*measured, images})

    run(tmp_path / "one", taken, 40, ADVERSARIAL, checkpoint_every=40)
    one, two = (load_file(tmp_path / name / "checkpoint-00000040" / WEIGHTS) for name in ("one", "two"))
    for name, weight in one.items():
        assert torch.allclose(weight, two[name], rtol=1e-3, atol=5e-4), name

    # One process can resume the run of two processes, with the same log.
    run(tmp_path / "two", taken, images + 4, ADVERSARIAL, checkpoint_every=40)
    assert find_newest_checkpoint(tmp_path / "two").name == f"checkpoint-{images + 4:08}"
    measured = [line["images"] for line in lines(tmp_path / "two", "val")]
    assert measured == sorted({*measured}) and measured[-1] == images + 4


@pytest.mark.slow
@pytest.mark.exhaustive
def test_two_processes_resume_the_run_of_one_and_end_with_the_weights_of_one(tmp_path: Path, taken: Snapshot) -> None:
    run(tmp_path / "one", taken, 40, ADVERSARIAL, checkpoint_every=40)
    shutil.copytree(tmp_path / "one", tmp_path / "both")
    run(tmp_path / "one", taken, 60, ADVERSARIAL, checkpoint_every=40)
    assert launch_two(taken, tmp_path / "both", 60).wait(300) == 0
    assert [line["images"] for line in lines(tmp_path / "both", "val")] == [0, 40, 60]
    one, both = (load_file(find_newest_checkpoint(tmp_path / name) / WEIGHTS) for name in ("one", "both"))
    for name, weight in one.items():
        assert torch.allclose(weight, both[name], rtol=1e-3, atol=1e-4), name


@pytest.mark.parametrize("name", ["FSDP", "DeepSpeed"])
def test_a_launch_that_divides_the_model_is_refused(
    tmp_path: Path, taken: Snapshot, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(f"ACCELERATE_USE_{name.upper()}", "true")
    with pytest.raises(BadInput, match=f"uses {name}, but each process .* start with `accelerate launch --multi_gpu`"):
        run(tmp_path, taken)


def test_schedules_follow_images_and_the_end_of_the_run() -> None:
    tiny = find_recipe("tiny")
    end = 16 * tiny.cooldown
    assert compute_rate(tiny, 0, end) == pytest.approx(tiny.rate * tiny.batch / tiny.warmup)
    assert compute_rate(tiny, tiny.warmup, end) == compute_rate(tiny, tiny.decay_from, end) == tiny.rate
    assert compute_rate(tiny, 4 * tiny.decay_from, end) == pytest.approx(tiny.rate / 2)
    steady = replace(tiny, cooldown=0)
    for images, share in ((end - tiny.cooldown, 1.0), (end - tiny.cooldown // 2, 0.5), (end, 0.0)):
        assert compute_rate(tiny, images, end) == pytest.approx(share * compute_rate(steady, images, end))
    assert compute_rate(tiny, 800, 1000) == tiny.rate > compute_rate(tiny, 900, 1000) > 0.0
    assert compute_ema_decay(tiny, 10**9) ** (tiny.ema / tiny.batch) == pytest.approx(0.5)
    assert compute_ema_decay(tiny, 0) < 1e-3


def test_a_late_factor_multiplies_the_weight_of_its_loss_after_its_images(
    tmp_path: Path, taken: Snapshot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train.fit.loop, "LOG_EVERY", 8)
    run(tmp_path, taken, 24, replace(SMALL, late_factors=dict.fromkeys(SMALL.losses, 0.0), late_from=16))
    assert [line["loss"] > 0.0 for line in lines(tmp_path, "train")] == [True, True, False]
    assert all(line["pixel"] > 0.0 for line in lines(tmp_path, "train"))
